"""What a person decides about the alias: promote a version, go back, let runs move it again.

A version that was chosen so is pinned: runs leave the alias with it, and say so, until it is taken
off. Directly before the alias moves, every byte of what it will lead to is read, as for a run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from merge_core.errors import MergeflowError
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.progress import Progress
from merge_core.records import Record
from merge_core.text.plain import plain
from tasks.registry.addresses import find_model, numbered_version
from tasks.registry.alias import AliasKeeper, Chosen
from tasks.registry.alias_state import AliasState, Pin
from tasks.registry.client import TAG, Registry, check_address, open_registry
from tasks.registry.described import described_checkpoint
from tasks.registry.history import find_histories
from tasks.registry.last_check import check_bytes_served
from tasks.registry.memory import canonical, note_store_of
from tasks.registry.pages import every
from tasks.units import timestamp

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_LONGEST_WHY, _LONGEST_NAME = 1000, 200


class ChosenByHand(Record):
    """What became of the alias."""

    name: str
    version: str
    """The version that has it now."""
    previous: str | None
    """The version that had it before; the same where it was only pinned."""
    digest: str
    path: str
    pin: Pin


class Released(Record):
    """What runs may move again."""

    name: str
    version: str | None
    pin: Pin | None
    """The pin that was taken off; None where somebody had moved the alias outside of mergeflow."""


def promote(
    home: Home,
    tracking_uri: str,
    name: str,
    version: str,
    *,
    why: str,
    by: str | None = None,
    progress: Progress | None = None,
) -> ChosenByHand:
    """Give the alias to a version, and pin it there.

    Raises:
        MergeflowError: there is no such version, or no reason was given.
        CheckpointError: it is not what was registered.
        StepError: somebody else moved the alias meanwhile, or MLflow refused.
    """
    reason, typed = _said(why, by)
    with _opened(tracking_uri) as registry:
        find_model(registry, name)
        held = numbered_version(registry, name, version)
        return _choose(registry, home, held, "promote", reason, typed, progress)


def roll_back(
    home: Home,
    tracking_uri: str,
    name: str,
    to: str | None = None,
    *,
    why: str,
    by: str | None = None,
    progress: Progress | None = None,
) -> ChosenByHand:
    """Give the alias back to a version that had it, and pin it there.

    Args:
        to: the version; by default the champion before the present one. Going back twice goes two
            champions back.

    Raises:
        MergeflowError: there is no such version, or none that is known to have had the alias.
        CheckpointError: it is not what was registered.
        StepError: somebody else moved the alias meanwhile, or MLflow refused.
    """
    reason, typed = _said(why, by)
    with _opened(tracking_uri) as registry:
        find_model(registry, name)
        wanted = to if to is not None else _champion_before(registry, home, name)
        held = numbered_version(registry, name, wanted)
        return _choose(registry, home, held, "rollback", reason, typed, progress)


def unpin(
    home: Home, tracking_uri: str, name: str, *, why: str | None = None, by: str | None = None
) -> Released:
    """Let runs move the alias again, whether it was pinned or moved outside of mergeflow.

    Raises:
        MergeflowError: no run is kept from moving it.
        StepError: MLflow refused.
    """
    with _opened(tracking_uri) as registry:
        find_model(registry, name)
        keeper = AliasKeeper(registry, name, home)
        state = keeper.state()
        if state.pin is None and not state.moved_elsewhere:
            raise MergeflowError(
                "nothing is pinned here: runs may move the alias",
                where=f"models:/{name}@champion",
                mend="pin a version with `mergeflow promote` or `mergeflow rollback`",
            )
        typed = plain(by, _LONGEST_NAME) if by else None
        said = plain(why, _LONGEST_WHY) if why else None
        before = keeper.release(Chosen(how="unpin", why=said, by=typed))
        return Released(name=name, version=before.holder, pin=before.pin)


@contextlib.contextmanager
def _opened(tracking_uri: str) -> Iterator[Registry]:
    """A registry that is there: none is made where an address is misspelt."""
    check_address(tracking_uri)
    with open_registry(tracking_uri, writing=True) as registry:
        yield registry


def _choose(
    registry: Registry,
    home: Home,
    held: ModelVersion,
    how: Literal["promote", "rollback"],
    why: str,
    by: str | None,
    progress: Progress | None,
) -> ChosenByHand:
    keeper = AliasKeeper(registry, held.name, home)
    state, number = keeper.settle(), str(held.version)
    model, checkpoint = described_checkpoint(registry, held)
    note_store_of(checkpoint.path, registry.tracking_uri, registry, model.experiment_id)
    look_again = check_bytes_served(
        registry, held, model.model_id, checkpoint, DigestMemo(home.digest_memo), progress
    )
    pin = Pin(version=number, why=why, by=by, at=timestamp(), how=how)
    chosen = Chosen(how=how, why=why, by=by, digest=checkpoint.digest)
    keeper.move(number, chosen, seen=state.holder, last_look=look_again, pin=pin)
    return ChosenByHand(
        name=held.name,
        version=number,
        previous=state.holder,
        digest=checkpoint.digest,
        path=checkpoint.path,
        pin=pin,
    )


def _champion_before(registry: Registry, home: Home, name: str) -> str:
    """The version that had the alias before the present one, as far as anything tells."""
    state = AliasKeeper(registry, name, home).state()
    address = canonical(home, registry.tracking_uri)
    there = {
        str(each.version)
        for each in every(registry.client.search_model_versions, f"name = '{name}'")
    }
    for history in find_histories(home, address, name, state.tags):
        holders = history.holders()
        before = holders[:-1] if holders and holders[-1] == state.holder else holders
        for version in reversed(before):
            if version in there and version != state.holder:
                return version
    noted = _noted_before(registry, state)
    if noted is not None and noted in there and noted != state.holder:
        return noted
    others = sorted(there - {state.holder or ""}, key=int)
    raise MergeflowError(
        f"no champion of {name} before the present one is known",
        where=f"models:/{name}@champion",
        mend=f"name the version with --to; versions here: {', '.join(others) or 'no other'}",
    )


def _noted_before(registry: Registry, state: AliasState) -> str | None:
    """What the registry itself says: another home's last move, or the run of the champion."""
    if state.note is not None and state.note.version == state.holder and state.note.previous:
        return state.note.previous
    if state.holder is None:
        return None
    version = registry.client.get_model_version(state.name, state.holder)
    run_id = version.tags.get(TAG + "run_id")
    if not run_id:
        return None
    from mlflow.exceptions import MlflowException

    try:
        run = registry.client.get_run(run_id)
    except MlflowException:
        return None
    return str(run.data.tags.get(TAG + "previous_champion", "")) or None


def _said(why: str, by: str | None) -> tuple[str, str | None]:
    if not why.strip():
        raise MergeflowError(
            "a champion that a person chooses needs a reason, for whoever reads the history",
            where="--why",
            mend='write it in a few words: --why "the canary failed on German prompts"',
        )
    return plain(why.strip(), _LONGEST_WHY), plain(by.strip(), _LONGEST_NAME) if by else None
