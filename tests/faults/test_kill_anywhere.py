"""kill -9 at any moment of a merge leaves the finished checkpoint or something to resume, and the
same command ends in the same bytes. `make crash` does it 200 times, `make test` a few."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.crash_cases import (
    TENSOR_BYTES,
    TENSORS,
    THREADS,
    Case,
    merge_server,
    sums,
    tensors_in,
)
from tests.support.forked_commands import ForkServer, Signalled
from tests.support.traces import PHASES, bytes_taken_over, phase_of

SHARD = 10 * TENSOR_BYTES
CASES = [
    Case("linear"),
    Case("ties", SHARD),
    Case("ties_global", SHARD),
    Case("linear", SHARD, store=True),
    Case("ties_global", SHARD, store=True),
]
SEED = int(os.environ.get("CRASH_SEED", "4"))
KILLS = 200
FEW = 8
_LONGEST_DELAY = 0.02
_KILLED_TWICE = 0.25
"""Share of the merges of which the resumed run is killed too."""


@dataclass
class Tally:
    """What was seen of the kills of one case."""

    phases: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    """Kills that came when the checkpoint was already in its place."""
    resumed: int = 0
    """Runs that took over tensors from the run before."""
    redone: int = 0
    """The largest number of tensors that were all written and computed again."""

    @property
    def kills(self) -> int:
        return self.phases.total()

    def __str__(self) -> str:
        phases = ", ".join(f"{phase} {self.phases[phase]}" for phase in PHASES)
        return (
            f"{self.kills} kills: {phases}; checkpoint already in place {self.finished},"
            f" tensors taken over {self.resumed} times, at most {self.redone} redone"
        )


class Crashes:
    """One merge, killed again and again, each time in a new place."""

    def __init__(self, server: ForkServer, models: Path, case: Case, place: Path) -> None:
        self._server, self._models, self._case, self._place = server, models, case, place
        self._rounds = 0
        self.tally = Tally()
        for name in ("first", "whole"):  # the first run pays for what later ones find in caches
            whole = place / name
            whole.mkdir()
            started = time.monotonic()
            command = case.start(server, models, whole)
            assert command.wait() == 0, command.said
            self._duration = time.monotonic() - started
        trace = command.trace
        self._steps = _steps(trace, case.target(whole))
        (checkpoint,) = case.results(whole)
        self._name, self._sums = checkpoint.name, sums(checkpoint)
        self._tensors = tensors_in(checkpoint)
        assert len(self._tensors) == TENSORS
        assert bytes_taken_over(trace) == 0

    @property
    def phases(self) -> set[str]:
        """What an undisturbed merge goes through and says so."""
        return set(self._steps)

    def kill_and_resume(self, moments: random.Random, phase: str | None) -> None:
        """Kill a merge, perhaps also the one that resumes it, and let the next one end.

        Args:
            phase: kill within this phase; by default at any time of the whole run.
        """
        self._rounds += 1
        directory = self._place / f"round-{self._rounds}"
        directory.mkdir()
        before = 0
        for _ in range(2 if moments.random() < _KILLED_TWICE else 1):
            before = self._kill(moments, phase, directory, before)
            if self._case.results(directory):
                break
        self._end(directory, before)

    def _kill(self, moments: random.Random, phase: str | None, directory: Path, before: int) -> int:
        """Run and kill; returns how many tensors are all written afterwards."""
        signalled = None if phase is None else self._within(phase, moments)
        command = self._case.start(self._server, self._models, directory, signalled=signalled)
        if signalled is None:
            time.sleep(moments.uniform(0, self._duration))
            command.kill()
        status = command.wait()
        assert status in (0, -signal.SIGKILL), command.said
        if status:
            self.tally.phases[phase_of(command.trace, self._case.target(directory))] += 1
        self._check_takeover(command.trace, before)
        results = self._case.results(directory)
        assert len(results) <= 1
        for checkpoint in results:
            assert sums(checkpoint) == self._sums, "a checkpoint in its place that is not whole"
            self.tally.finished += bool(status)
        self._nothing_else_looks_finished(directory)
        found = tensors_in(directory)
        return sum(found.get(name) == data for name, data in self._tensors.items())

    def _within(self, phase: str, moments: random.Random) -> Signalled:
        """A moment at or soon after something that an undisturbed merge does in a phase."""
        after = moments.choice((0.0, moments.uniform(0, _LONGEST_DELAY)))
        if not self.tally.phases[phase]:
            after = 0.0  # the first kill in a phase is to be certainly in it
        line = moments.choice(self._steps[phase])
        return Signalled(signal.SIGKILL, line=line, after=after)

    def _end(self, directory: Path, before: int) -> None:
        """The same command, undisturbed."""
        there = self._case.results(directory)
        command = self._case.start(self._server, self._models, directory)
        status = command.wait()
        if there and not self._case.store:
            assert status == 2
            assert "already exists; nothing was written" in command.said
        else:
            assert status == 0, command.said
            left = self._case.leftovers(directory)
            assert left == set()
        if not there:
            self._check_takeover(command.trace, before)
        elif self._case.store:
            assert not any(line[:2] == ["progress", "merge"] for line in command.trace)
        (checkpoint,) = self._case.results(directory)
        assert sums(checkpoint) == self._sums
        assert not self._case.store or checkpoint.name == self._name

    def _check_takeover(self, trace: list[list[str]], before: int) -> None:
        """A run computes no tensor again but those that were in work when the last was killed."""
        if not any(line[:2] == ["progress", "merge"] for line in trace):
            return
        taken = bytes_taken_over(trace) // TENSOR_BYTES
        assert before - THREADS <= taken <= before
        self.tally.resumed += taken > 0
        self.tally.redone = max(self.tally.redone, before - taken)

    def _nothing_else_looks_finished(self, directory: Path) -> None:
        for path in directory.rglob("config.json"):
            hidden = any(part.startswith(".") for part in path.relative_to(directory).parts)
            staged = "staging" in path.relative_to(directory).parts
            assert hidden or staged or path.parent in self._case.results(directory), path


def _steps(trace: list[list[str]], target: Path) -> dict[str, list[str]]:
    """For each phase what a kill can be aimed at: patterns of lines that come first in it."""
    steps: dict[str, list[str]] = defaultdict(list)
    known: set[str] = set()
    for count, fields in enumerate(trace, start=1):
        if fields[0] == "progress":
            aim = re.escape("\t".join(fields[:2])) + "\t"
        else:
            path, operation = fields[-2:]
            aim = re.escape(f"/{Path(path).name}\t{operation}") + "$"
        if aim not in known:
            steps[phase_of(trace[:count], target)].append(aim)
        known.add(aim)
    return dict(steps)


def crash(crashes: Crashes, kills: int, moments: random.Random) -> None:
    """Kill until there were so many: one half at any time, the other in each phase in turn."""
    phases = sorted(crashes.phases)
    aimed: list[str | None] = []
    for _ in range(4 * kills):
        if crashes.tally.kills >= kills:
            return
        if not aimed:
            aimed = [*moments.sample(phases, len(phases)), *[None] * len(phases)]
            moments.shuffle(aimed)
        crashes.kill_and_resume(moments, aimed.pop())
    raise AssertionError("most merges ended before they were killed")


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ForkServer]:
    with merge_server(models) as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_merge_killed_at_any_moment_ends_in_the_same_bytes(
    case: Case,
    server: ForkServer,
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    inputs = sums(models)
    crashes = Crashes(server, models, case, tmp_path)
    crash(crashes, KILLS // len(CASES), random.Random(f"{SEED} {case}"))
    with capsys.disabled():
        print(f"\n{case}, seed {SEED}: {crashes.tally}")
    assert sums(models) == inputs
    assert crashes.tally.resumed
    unseen = {"starting", "first passes"}
    if not case.store:  # inputs are hashed while weights are streamed
        unseen |= {"hashing inputs", "verifying and planning"}
    assert crashes.phases >= set(PHASES) - unseen
    assert crashes.phases <= set(crashes.tally.phases)


@pytest.mark.parametrize("case", [CASES[1], CASES[4]], ids=str)
@pytest.mark.slow
def test_a_merge_killed_a_few_times_ends_in_the_same_bytes(
    case: Case, server: ForkServer, models: Path, tmp_path: Path
) -> None:
    crashes = Crashes(server, models, case, tmp_path)
    crash(crashes, FEW // 2, random.Random(str(case)))
    assert crashes.tally.kills >= FEW // 2
