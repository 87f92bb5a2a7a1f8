"""`serving/NAME` in the home: a link to the checkpoint of the alias, for servers of directories.

A pipeline asks for it with `register: {serve: true}`. From then on every move of the alias switches
it, by whatever command, in one step: whoever opens the link gets the champion before or the new
one. Removing it ends that, until such a pipeline runs again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from merge_core.errors import CheckpointError, OutputError, StepError
from merge_core.files.durable import sync
from merge_core.files.private import make_private_directory
from merge_core.homes.home import Home
from merge_core.store.objects import object_id_of
from merge_core.text.plain import plain_log
from tasks.registry.client import TAG, Registry, mergeflow_experiments
from tasks.registry.described import described_checkpoint

_log = plain_log("mergeflow")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,199}")


def serving_link(home: Home, name: str) -> Path | None:
    """Where the link of a model is, or would be; None where its name is none of a file."""
    return home.serving / name if _NAME.fullmatch(name) else None


def is_served(home: Home, name: str) -> bool:
    """Whether something lies where the link would."""
    link = serving_link(home, name)
    return link is not None and os.path.lexists(link)


def served_links(home: Home) -> Iterator[Path]:
    """Every link of a home."""
    if home.serving.is_dir():
        yield from sorted(path for path in home.serving.iterdir() if path.is_symlink())


def check_link(registry: Registry, home: Home, name: str) -> None:
    """Refuse to replace what is no link of ours, before the alias moves.

    Raises:
        StepError: a directory or a file is there, or a link that leads neither into the store nor
            to a checkpoint that is registered from elsewhere.
    """
    link = serving_link(home, name)
    if link is None or not os.path.lexists(link):
        return
    if not link.is_symlink():
        raise StepError(
            "this is no link, so the champion cannot be served here",
            where=str(link),
            mend="move it away, and run the same command again: it makes the link",
        )
    target = Path(os.path.realpath(link))
    in_store = target.is_relative_to(home.objects.resolve())
    if not in_store and not _is_recorded(registry, {str(target), str(link.readlink())}):
        raise StepError(
            f"this link leads out of the store, to {target}, where mergeflow never let it lead",
            where=str(link),
            mend="remove the link, and run the same command again: it makes another",
        )


def follow_alias(registry: Registry, home: Home, name: str, holder: str | None) -> None:
    """Let the link lead to the checkpoint of a version, in one step.

    Args:
        holder: the version that has the alias; None where no version has it: then the link stays.

    Raises:
        CheckpointError: that checkpoint is not here.
        OutputError: the link cannot be made.
        StepError: it must not be replaced (`check_link`), or nothing says what the version is.
    """
    link = serving_link(home, name)
    if link is None or holder is None:
        return
    check_link(registry, home, name)
    version = registry.client.get_model_version(name, holder)
    if TAG + "digest" not in version.tags:
        _log.warning(
            "warning: %s leads where it led: mergeflow did not register version %s, which has the"
            " alias",
            link,
            holder,
        )
        return
    _, checkpoint = described_checkpoint(registry, version)
    if not checkpoint.directory.is_dir():
        raise CheckpointError(
            f"version {holder} has the alias, and its checkpoint is not here to be served",
            where=checkpoint.path,
            mend=f"bring it back there; or remove the link {link} to serve it elsewhere",
        )
    _switch(home, link, checkpoint.directory)


def _switch(home: Home, link: Path, directory: Path) -> None:
    """An object of the home is named relative to the link, so that both move together."""
    own = object_id_of(directory) and directory.resolve().is_relative_to(home.path.resolve())
    target = f"../{directory.resolve().relative_to(home.path.resolve())}" if own else str(directory)
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        make_private_directory(link.parent)
        if link.is_symlink() and str(link.readlink()) == target:
            return
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(link)
        sync(link.parent)
    except OSError as error:
        raise OutputError(
            f"the alias has moved, and its link cannot be switched: {error.strerror}",
            where=str(link),
            mend="see that you may write there and that there is room, and run the same command"
            " again: it completes what is missing",
        ) from error


def _is_recorded(registry: Registry, places: Collection[str]) -> bool:
    """Whether a checkpoint is registered from one of these places: a base may lie anywhere."""
    experiments = mergeflow_experiments(registry)
    for place in sorted(places) if experiments else ():
        quoted = place.replace("'", "")
        found = registry.client.search_logged_models(
            experiments, filter_string=f"tags.`{TAG}path` = '{quoted}'", max_results=1
        )
        if found:
            return True
    return False
