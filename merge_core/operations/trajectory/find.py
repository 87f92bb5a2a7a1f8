"""Finds the checkpoints in a training run's directory, and tells which are still being written."""

from __future__ import annotations

import fnmatch
import re
import time
from collections.abc import Iterable
from pathlib import Path

from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.errors import CheckpointError, RecipeError
from merge_core.operations.trajectory.records import LeftAlone, RunCheckpoint
from merge_core.operations.trajectory.trainer_state import STATE_NAME, read_trainer_state

STEP = "{step}"
_NAMED = re.compile(r"(?:checkpoint|step|iter(?:ation)?)[-_]?(\d+)", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")
_CONFIG = "config.json"


def checkpoints_in(run: Path, pattern: str) -> tuple[list[RunCheckpoint], list[LeftAlone]]:
    """The checkpoint directories of a run by rising step, whole or not; and those without a step.

    Args:
        pattern: of their names: `checkpoint-*`, or with the step's place: `epoch*-step{step}`.

    Raises:
        RecipeError: the pattern has more than one place for the step, or leads elsewhere.
    """
    found, left_alone = [], []
    for path in sorted(path for path in run.iterdir() if path.is_dir()):
        if not matches(path.name, pattern):
            continue
        step = step_of(path.name, pattern)
        if step is None:
            state = read_trainer_state(path / STATE_NAME)
            step = state.step if state else None
        if step is None:
            reason = f"neither its name nor a {STATE_NAME} tells its step"
            left_alone.append(LeftAlone(name=path.name, reason=reason))
            continue
        found.append(RunCheckpoint(step=step, name=path.name, reference=str(path)))
    return one_for_each_step(found, left_alone)


def one_for_each_step(
    found: Iterable[RunCheckpoint], left_alone: list[LeftAlone]
) -> tuple[list[RunCheckpoint], list[LeftAlone]]:
    """By rising step, each step once (`checkpoint-last` beside `checkpoint-500`)."""
    by_step: dict[int, RunCheckpoint] = {}
    for checkpoint in sorted(found, key=lambda each: (not _NUMBER.search(each.name), each.name)):
        first = by_step.setdefault(checkpoint.step, checkpoint)
        if first is not checkpoint:
            reason = f"step {checkpoint.step} is {first.name}"
            left_alone.append(LeftAlone(name=checkpoint.name, reason=reason))
    return [by_step[step] for step in sorted(by_step)], left_alone


def matches(name: str, pattern: str) -> bool:
    """Whether a name fits a pattern of `*`, `?`, `[...]` and at most one `{step}`.

    Raises:
        RecipeError: the pattern has more than one place for the step, or leads elsewhere.
    """
    return _expression(pattern).fullmatch(name) is not None


def step_of(name: str, pattern: str) -> int | None:
    """The step that a name tells: where the pattern says, else after `checkpoint` or `step`, else
    its only number; None when it tells none."""
    match = _expression(pattern).fullmatch(name)
    if match and match.groups():
        return int(match[1])
    named = _NAMED.findall(name)
    if len(named) == 1:
        return int(named[0])
    numbers = _NUMBER.findall(name)
    return int(numbers[0]) if len(numbers) == 1 else None


def why_unfinished(
    directory: Path, *, marker: str | None, settle_seconds: float, now: float | None = None
) -> str | None:
    """Why a checkpoint directory is left alone for now; None when it is whole.

    Args:
        marker: a file that the training writes last. Without one, nothing in the directory may
            have changed for `settle_seconds`.
        now: seconds since the epoch, by default the current time.
    """
    try:
        if marker and not (directory / marker).exists():
            return f"it has no {marker} yet"
        if not marker:
            age = (time.time() if now is None else now) - _last_change(directory)
            if age < settle_seconds:
                return f"it changed {max(age, 0):.0f} s ago, and settles in {settle_seconds:g} s"
        open_checkpoint(directory)
        if not (directory / _CONFIG).is_file():
            return f"it has no {_CONFIG}"
    except CheckpointError as error:
        return error.what
    except FileNotFoundError:
        return "it was just removed"
    return None


def _last_change(directory: Path) -> float:
    """When anything in a directory last changed, seconds since the epoch.

    By the change time too, which a copy that keeps modification times does not set back.
    """
    entries = [directory, *directory.iterdir()]
    return max(max(status.st_mtime, status.st_ctime) for status in map(Path.stat, entries))


def _expression(pattern: str) -> re.Pattern[str]:
    head, *tail = pattern.split(STEP)
    if len(tail) > 1 or not pattern or "/" in pattern:
        raise RecipeError(
            f"'{pattern}' is no pattern of checkpoint names",
            where="training.pattern",
            mend="write for example checkpoint-*, or step{step}-* with one place for the step",
        )
    if not tail:
        return re.compile(fnmatch.translate(head))
    # `translate` closes with an anchor, which has to be left off the first half.
    before = fnmatch.translate(head).removesuffix(r"\Z").removesuffix(r"\z")
    return re.compile(rf"{before}(\d+){fnmatch.translate(tail[0])}")
