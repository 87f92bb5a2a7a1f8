"""The command that tidies the store, with its quarantine and the registries that it asks."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import AsJson, terminal_for
from merge_core.errors import MergeflowError, OutputError
from tasks.units import read_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.terminal.console import Terminal
    from merge_core.homes.home import Home
    from merge_core.store.quarantine import Quarantined
    from tasks.store.contents import StoredItem
    from tasks.store.retention import Tidied


def add_commands(app: typer.Typer) -> None:
    """Add this module's command to the program."""
    app.command(epilog="Example: `mergeflow gc`, then `mergeflow gc --yes`")(gc)


def gc(
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove it. Without this, only show what would go.")
    ] = False,
    keep: Annotated[
        int, typer.Option(min=0, help="Averages of each configuration to keep in any case.")
    ] = 5,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Leave younger things alone: 30m, 24h, 7d.")
    ] = "24h",
    quarantine: Annotated[
        str,
        typer.Option(
            metavar="AGE", help="How long removed things wait until a later `gc` deletes them."
        ),
    ] = "7d",
    empty_quarantine: Annotated[
        bool,
        typer.Option("--empty-quarantine", help="Delete now what waits, which frees the disk."),
    ] = False,
    restore: Annotated[
        str, typer.Option(metavar="NAME", help="Put one thing back from the quarantine.")
    ] = "",
    tracking_uri: Annotated[
        str,
        typer.Option(
            metavar="URI", help="One more MLflow address to ask. Default: $MLFLOW_TRACKING_URI."
        ),
    ] = "",
    no_registry: Annotated[
        bool,
        typer.Option("--no-registry", help="Ask none but those known to have used this store."),
    ] = False,
    forget_registry: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="A registry that is gone for good; ask it no more."),
    ] = "",
    foreign: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL", help="models:/NAME/VERSION that serves nothing of this store."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show, or remove, stored checkpoints that neither the registry nor anything else needs.

    They wait in a quarantine before they are deleted. Every registry that this store was used by is
    asked; while one does not answer, nothing is removed.
    """
    from merge_core.homes.home import Home
    from merge_core.store.quarantine import linked_directories, quarantined
    from tasks.store.retention import Tidied, survey, tidy

    terminal, home = terminal_for(as_json), Home.discover(make=False)
    wait, oldest = _seconds(quarantine), _seconds(older_than)
    if restore or forget_registry:
        _change(terminal, home, restore, forget_registry)
        return
    uri = _registry_to_name(terminal, home, tracking_uri, no_registry)
    vouched_for = frozenset(foreign or ())
    items = survey(home, uri, keep=keep, older_than_seconds=oldest, foreign=vouched_for)
    useless = [item for item in items if item.kept is None]
    if not as_json:
        _show(terminal, items)
    for path in linked_directories(home):
        terminal.warn(
            f"{path} is a link, and what it leads to is left alone; to keep a home on another disk,"
            " move all of it there and name it in MERGEFLOW_HOME"
        )
    done = Tidied()
    if (yes and useless) or ((yes or empty_quarantine) and quarantined(home)):
        done = tidy(
            home,
            uri,
            useless if yes else (),
            keep=keep,
            keep_for=wait,
            at_once=None if empty_quarantine else (),
            foreign=vouched_for,
        )
    waiting = quarantined(home)
    if as_json:
        terminal.give(_as_json(items, done, waiting, yes))
    else:
        _say(terminal, useless, done, waiting, removed=yes or empty_quarantine)
    if done.failed:
        raise _failure(done)


def _change(terminal: Terminal, home: Home, restore: str, forgotten: str) -> None:
    from merge_core.store.quarantine import find_quarantined, one_at_a_time, put_back
    from tasks.registry.memory import forget_registry

    if forgotten:
        forget_registry(home, forgotten)
        terminal.say("forgotten: what it serves of this store counts no more")
    if restore:
        with one_at_a_time(home):
            item = find_quarantined(home, restore)
            put_back(home, item, as_new=True)
        terminal.say(
            f"{item.place}/{item.name} is back, and counts as new for --older-than: register it, or"
            " name the registry that serves it with --tracking-uri"
        )


def _registry_to_name(
    terminal: Terminal, home: Home, tracking_uri: str, no_registry: bool
) -> str | None:
    """A registry to ask besides the known ones; None for no other.

    Raises:
        MergeflowError: none is known at all.
    """
    from tasks.registry.memory import began_before_notes, begin_notes, canonical, known_registries

    if tracking_uri and no_registry:
        raise typer.BadParameter("--no-registry and --tracking-uri say opposite things")
    known = list(dict.fromkeys(each.address for each in known_registries(home)))
    if began_before_notes(home):
        terminal.warn(
            "this home has no note of what was registered before: if a pipeline of yours names a"
            " register.tracking_uri, name that here once with --tracking-uri"
        )
        with contextlib.suppress(OutputError):  # it is said again
            begin_notes(home)
    if no_registry and known:
        terminal.warn("--no-registry leaves out none that is known to have used this store")
    named = None if no_registry else tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    asked = dict.fromkeys([*([canonical(home, named)] if named else []), *known])
    if asked and not terminal.machine:
        terminal.say(f"asking {', '.join(asked)} ...", "dim")
    if asked or no_registry:
        return named
    raise MergeflowError(
        "no registry is known that this store was used by, so what is served is not known",
        where=str(home.path),
        mend="name the one that your pipelines register at with --tracking-uri, or say"
        " --no-registry if there is none",
    )


def _as_json(
    items: Sequence[StoredItem], done: Tidied, waiting: Sequence[Quarantined], yes: bool
) -> dict[str, object]:
    return {
        "removed": yes,
        "moved_bytes": sum(item.bytes for item in done.moved),
        "freed_bytes": done.freed,
        "items": [item.model_dump(mode="json") for item in items],
        "moved": [item.name for item in done.moved],
        "put_back": [{"name": item.name, "why": why} for item, why in done.put_back],
        "deleted": [item.name for item in done.deleted],
        "failed": list(done.failed),
        "quarantine": [item.model_dump(mode="json") for item in waiting],
    }


def _say(
    terminal: Terminal,
    useless: Sequence[StoredItem],
    done: Tidied,
    waiting: Sequence[Quarantined],
    *,
    removed: bool,
) -> None:
    from flows.terminal.console import size

    for item, why in done.put_back:
        terminal.say(f"{item.name[:12]} is needed after all and is back: {why}", "yellow")
    if done.moved:
        total = size(sum(item.bytes for item in done.moved))
        terminal.say(f"moved {len(done.moved)} to the quarantine, {total}", "bold")
    if done.deleted:
        terminal.say(f"deleted {len(done.deleted)}, {size(done.freed)} freed", "bold")
    if waiting:
        _show_waiting(terminal, waiting)
        terminal.say(
            "the disk gets this room back when a later `mergeflow gc --yes` deletes it; at once:"
            " `mergeflow gc --empty-quarantine`; one thing back: `mergeflow gc --restore NAME`"
        )
    if not removed and useless:
        total = size(sum(item.bytes for item in useless))
        terminal.say(f"{len(useless)} could go, {total}: `mergeflow gc --yes` removes them", "bold")
    elif not useless and not done.deleted:
        terminal.say("nothing to remove", "bold")


def _show(terminal: Terminal, items: list[StoredItem]) -> None:
    from flows.terminal.console import add_row, cell, size, table_of

    heads = ("what", "name", "size", "age", "kept because")
    table = table_of(*heads, right=("size", "age"), wraps=heads)
    for item in items:
        why = item.kept or cell("nothing needs it", "yellow")
        add_row(table, item.kind, item.name[:12], size(item.bytes), _age(item.age_seconds), why)
    if items:
        terminal.results.print(table)


def _show_waiting(terminal: Terminal, waiting: Sequence[Quarantined]) -> None:
    from flows.terminal.console import add_row, size, table_of

    heads = ("in quarantine", "was in", "size", "since", "deleted by `gc --yes`")
    table = table_of(*heads, right=("size", "since"), wraps=heads)
    now = time.time()
    for item in waiting:
        left = item.delete_after - now
        when = f"in {_age(left)}" if left > 0 else "when it runs next"
        name = item.entry if len(item.name) != 64 else f"{item.name[:12]}"
        add_row(table, name, item.place, size(item.bytes), _age(now - item.moved), when)
    terminal.results.print(table)


def _age(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} d"


def _failure(done: Tidied) -> Exception:
    return OutputError(
        f"{len(done.failed)} could not be moved or deleted, the rest was: {'; '.join(done.failed)}",
        mend="see that these directories and the ones above them are yours and on one file system",
    )


def _seconds(age: str) -> float:
    try:
        return read_duration(age)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
