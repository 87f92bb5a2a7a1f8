"""The command `mergeflow reproduce`: make a registered merge again, and compare every byte."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.check import DOES_NOT_HOLD
from flows.cli.options import (
    AsJson,
    Device,
    Threads,
    TrackingUri,
    home_and_registry,
    read_bytes,
    terminal_for,
)
from merge_core.errors import MergeflowError
from merge_core.runtime.compute import Compute

if TYPE_CHECKING:
    from flows.terminal.console import Terminal
    from tasks.reproduction.report import Reproduction


def add_commands(app: typer.Typer) -> None:
    """Add this module's command to the program."""
    app.command(epilog="Example: `mergeflow reproduce models:/zoo-good@champion`")(reproduce)


def reproduce(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="models:/NAME@ALIAS or models:/NAME/VERSION.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep what is made in this directory, which is new."),
    ] = None,
    look_in: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Look for sources below this directory too; repeatable."),
    ] = None,
    shard_size: Annotated[
        str,
        typer.Option(metavar="SIZE", help="Only for versions without a lock, for example 500MB."),
    ] = "",
    device: Device = "auto",
    threads: Threads = None,
    tracking_uri: TrackingUri = "",
    as_json: AsJson = False,
) -> None:
    """Make a registered merge again from its record, elsewhere, and compare every byte.

    Sources are found by their digests, wherever they are now. Exit code 4 when bytes differ or a
    source is nowhere.
    """
    from tasks.reproduction.reproduce import reproduce as make_again

    for directory in look_in or ():
        if not directory.is_dir():
            raise MergeflowError(
                "there is no such directory to look in",
                where=str(directory),
                mend="name one that is there with --look-in",
            )
    terminal = terminal_for(as_json)
    home, registry = home_and_registry(tracking_uri)
    with terminal.progress() as progress:
        report = make_again(
            home,
            model,
            registry,
            out=out,
            look_in=look_in or (),
            compute=Compute(device, threads),
            shard_bytes=read_bytes(shard_size) if shard_size else None,
            progress=progress,
        )
    if as_json:
        told = {"same": report.same, "holds": report.holds}
        terminal.give(report.model_dump(mode="json") | told)
    else:
        _show(terminal, report)
    if not report.holds:
        raise typer.Exit(DOES_NOT_HOLD)


def _show(terminal: Terminal, report: Reproduction) -> None:
    from merge_core.findings import counted

    if report.same:
        said = f"comes out the same: {counted(report.files, 'file')}, every byte"
        terminal.say(f"{report.model_uri} {said}", style="bold")
        terminal.say(f"  object id {report.object_id}")
    elif report.missing:
        gone = counted(len(report.missing), "source")
        terminal.say(f"{report.model_uri} cannot be made again: {gone} missing", style="bold red")
    else:
        but = "" if report.differences else ": every file is the same but its manifest"
        terminal.say(f"{report.model_uri} comes out otherwise{but}", style="bold red")
    for each in report.differences:
        was, now = (value[:12] if value else "no file" for value in (each.recorded, each.rebuilt))
        terminal.say(f"  differs    {each.name}: sha256 {was} as recorded, {now} made again")
    for source in report.sources:
        where = "found in" if source.moved else "still in"
        terminal.say(
            f"  source     {source.reference} ({source.digest[:12]}) {where}"
            f" {' and '.join(source.paths)}"
        )
    for lost in report.missing:
        terminal.say(f"  missing    {lost.reference} ({lost.digest[:12]})", style="red")
        for place in lost.looked:
            terminal.say(f"             {place}")
        terminal.say(f"             what to do: {lost.mend}")
    for word, lines in (
        ("not used", report.problems),
        ("assumed", report.assumed),
        ("otherwise", report.otherwise),
    ):
        for line in lines:
            terminal.say(f"  {word:<10} {line}")
    if report.kept:
        terminal.say(f"  kept       {report.kept}")
