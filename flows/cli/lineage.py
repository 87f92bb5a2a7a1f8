"""The commands `mergeflow lineage` and `mergeflow diff`: ancestors, descendants, differences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import AsJson, TrackingUri, home_and_registry, terminal_for
from merge_core.errors import MergeflowError

if TYPE_CHECKING:
    from flows.terminal.console import Terminal
    from merge_core.homes.home import Home
    from tasks.lineage.contains import Containing


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to the program."""
    app.command(epilog="Example: `mergeflow lineage models:/zoo-good@champion`")(lineage)
    app.command(epilog="Example: `mergeflow diff models:/zoo-good/1 models:/zoo-good/2`")(diff)


def lineage(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="models:/NAME@ALIAS or models:/NAME/VERSION; with --contains also a digest, or a"
            " checkpoint's directory.",
        ),
    ],
    tracking_uri: TrackingUri = "",
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a mermaid graph.")] = False,
    html: Annotated[
        bool, typer.Option("--html", help="Print one HTML page that needs no network.")
    ] = False,
    contains: Annotated[
        bool,
        typer.Option(
            "--contains", help="List the registered versions that contain this checkpoint instead."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a registered version was made of, with the digest of every ancestor."""
    from tasks.lineage.contains import versions_that_contain
    from tasks.lineage.html import lineage_html
    from tasks.lineage.mermaid import lineage_mermaid
    from tasks.lineage.text import render_lineage
    from tasks.lineage.trace import lineage as trace

    if [mermaid, html, as_json].count(True) > 1 or (contains and (mermaid or html)):
        raise MergeflowError(
            "these options exclude each other",
            where="mergeflow lineage",
            mend="give one of --mermaid, --html and --json; --contains prints a list, or --json",
        )
    terminal = terminal_for(as_json)
    home, address = home_and_registry(tracking_uri, make=False)
    if contains:
        found = versions_that_contain(_digest_of(model, home), address)
        if as_json:
            terminal.give(found.model_dump(mode="json"))
        else:
            _say_containing(terminal, found)
        return
    ancestry = trace(model, address)
    if as_json:
        terminal.give(ancestry.model_dump(mode="json"))
    elif html:
        typer.echo(lineage_html(ancestry), nl=False)
    else:
        text = lineage_mermaid(ancestry) if mermaid else render_lineage(ancestry)
        terminal.say_lines(text.rstrip("\n"))


def _digest_of(wanted: str, home: Home) -> str:
    """The digest of a directory, whose files are read; anything else as it is."""
    directory = Path(wanted).expanduser()
    if not directory.is_dir():
        return wanted
    from merge_core.checkpoints.sources import describe_source
    from merge_core.files.digests import DigestMemo

    return describe_source(wanted, directory, DigestMemo(home.digest_memo)).digest


def _say_containing(terminal: Terminal, found: Containing) -> None:
    from flows.terminal.console import add_row, table_of
    from merge_core.findings import counted

    terminal.say(f"checkpoint {found.digest}")
    if not found.versions:
        terminal.say("  is in no registered version")
    else:
        table = table_of("version", "aliases", "verdict", "contains it", "digest", edge=True)
        for version in found.versions:
            between = version.merges_between
            aliases = " ".join(f"@{alias}" for alias in version.aliases)
            how = "is it" if between == 0 else f"{counted(between, 'merge')} later"
            verdict = (version.verdict or "").replace("_", " ")
            add_row(table, version.model_uri, aliases, verdict, how, version.digest[:12])
        terminal.results.print(table)
    if found.unregistered:
        one = found.unregistered == 1
        merges = counted(found.unregistered, "merge")
        terminal.say(f"  and in {merges} that {'is' if one else 'are'} no version of a model")


def diff(
    first: Annotated[str, typer.Argument(metavar="MODEL", help="A registered version.")],
    second: Annotated[str, typer.Argument(metavar="OTHER", help="Another one.")],
    tracking_uri: TrackingUri = "",
    as_json: AsJson = False,
) -> None:
    """Show in what two versions differ: recipe, sources, scores, rule, tensors and by how much.

    Weights are compared where both checkpoints are on this machine.
    """
    from tasks.lineage.diff import difference, difference_lines

    terminal = terminal_for(as_json)
    _, address = home_and_registry(tracking_uri, make=False)
    with terminal.progress() as progress:
        found = difference(first, second, address, progress)
    if as_json:
        terminal.give(found.model_dump(mode="json"))
    else:
        for line in difference_lines(found):
            terminal.say(line)
