"""The command `mergeflow audit`: does a registered version still hold what its record says?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.check import DOES_NOT_HOLD
from flows.cli.options import AsJson, TrackingUri, home_and_registry

if TYPE_CHECKING:
    from flows.terminal.console import Terminal
    from tasks.audit.report import AuditReport

_STYLES = {"holds": "green", "fails": "bold red", "unknown": "yellow"}


def add_commands(app: typer.Typer) -> None:
    """Add this module's command to the program."""
    app.command(epilog="Example: `mergeflow audit models:/zoo-good@champion`")(audit)


def audit(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="models:/NAME@ALIAS or models:/NAME/VERSION.")
    ] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="Every version of every model that mergeflow registered.")
    ] = False,
    key: Annotated[
        list[Path] | None,
        typer.Option(
            "--key",
            metavar="PUB",
            help="A public key that has to have signed it, from a place that you trust; with --all"
            " each merge. Default: signatures are checked by the keys of the home, and there may"
            " be none.",
        ),
    ] = None,
    tracking_uri: TrackingUri = "",
    as_json: AsJson = False,
) -> None:
    """Compare a version with all that is recorded of it, and read every byte that it leads to.

    Says what holds, what does not, and what could not be looked at. Exit code 4 when something does
    not hold.
    """
    from flows.terminal.console import Terminal
    from merge_core.errors import MergeflowError
    from tasks.audit.audit import audit_all, audit_version
    from tasks.signing.trust import Trust

    if bool(model) == everything:
        raise MergeflowError(
            "name one version, or all of them",
            where="mergeflow audit",
            mend="write `mergeflow audit models:/NAME@champion`, or `mergeflow audit --all`",
        )
    terminal = Terminal(machine=as_json)
    trust = Trust.of_files(key) if key else None
    home, address = home_and_registry(tracking_uri, make=False)
    reports: list[AuditReport] = []
    with terminal.progress() as progress:
        found = (
            audit_all(home, address, progress, trust)
            if everything
            else iter([audit_version(home, model, address, progress, trust)])
        )
        for report in found:
            reports.append(report)
            if not as_json:
                _show(terminal, report)
    if as_json:
        given = [report.model_dump(mode="json") | {"holds": report.holds} for report in reports]
        terminal.give(given if everything else given[0])
    elif not reports:
        terminal.say("no version of a model of mergeflow's is registered here")
    if not all(report.holds for report in reports):
        raise typer.Exit(DOES_NOT_HOLD)


def _show(terminal: Terminal, report: AuditReport) -> None:
    failing, unknown = len(report.of("fails")), len(report.of("unknown"))
    word = "holds" if report.holds else "does not hold"
    terminal.say(f"{report.model_uri} {word}", style="bold" if report.holds else "bold red")
    for answer in report.answers:
        style = _STYLES[answer.outcome]
        terminal.say(f"  {answer.outcome:<8} {answer.check:<12} {answer.what}", style=style)
    if failing or unknown:
        terminal.say(f"  {failing} fail, {unknown} could not be looked at")
