"""Do checkpoints lie on the path of one training run? Measured on a sample of the weights.

A run moves on: going from its checkpoint a by way of x to b is hardly longer than going straight
(a straight line: 1 time the distance, a random walk 1.4, noise around one place 2). A checkpoint
of another run in between is a detour. Checkpoints that are not even relatives are found by verify.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from merge_core.checkpoints.sources import open_source
from merge_core.files.digests import digest_of
from merge_core.records import Record, SourceCheckpoint
from merge_core.tensors.block_reader import BlockReader
from merge_core.verification.ancestry import measure_ancestry

VERSION = 1
"""Raised when the same checkpoints would give another report; part of `path_key`."""
DETOUR = 3.0
"""From this ratio on, a checkpoint between two others is not on their way."""
LEAP = 5.0
"""From this ratio to the median on, the last distance is a leap."""


class PathReport(Record):
    """How far apart the checkpoints of a trajectory are."""

    distances: tuple[float | None, ...]
    """||θ_i - θ_(i-1)|| / ||θ_(i-1)||, sampled; None for the first, and where nothing compares."""
    warnings: tuple[str, ...]


def measure_path(sources: Sequence[SourceCheckpoint], names: Sequence[str]) -> PathReport:
    """Distances along a trajectory, the oldest checkpoint first, with what is odd about them.

    Raises:
        CheckpointError: a checkpoint cannot be read.
    """
    checkpoints = [open_source(source) for source in sources]

    def apart(first: int, second: int) -> float | None:
        measured = measure_ancestry(checkpoints[first], checkpoints[second], reader)
        return measured.relative_norm if measured else None

    with BlockReader() as reader:
        steps = [None, *(apart(index - 1, index) for index in range(1, len(checkpoints)))]
        across = [apart(index - 1, index + 1) for index in range(1, len(checkpoints) - 1)]
    warnings = []
    for index, straight in enumerate(across, 1):
        to, away = steps[index], steps[index + 1]
        if to and away and straight is not None and to + away > DETOUR * straight:
            ratio = (to + away) / straight if straight else math.inf
            warnings.append(
                f"{names[index]} is not on the way from {names[index - 1]} to {names[index + 1]}:"
                f" by way of it is {ratio:.1f} times as far as going straight; is it another run's?"
            )
    known = [step for step in steps[:-1] if step]
    last = steps[-1]
    if len(known) >= 2 and last and last > LEAP * statistics.median(known):
        warnings.append(
            f"{names[-1]} is {last / statistics.median(known):.1f} times as far from"
            f" {names[-2]} as its predecessors were from each other; is it another run's?"
        )
    return PathReport(distances=tuple(steps), warnings=tuple(warnings))


def path_key(sources: Sequence[SourceCheckpoint], names: Sequence[str]) -> str:
    """Digest of everything that a report depends on."""
    digests = [source.digest for source in sources]
    return digest_of({"version": VERSION, "checkpoints": digests, "names": list(names)})
