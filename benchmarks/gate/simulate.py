"""Candidates judged by the shipped gate, thousands at a time, and counted.

What runs is `planned_task`, `margin_of`, `part_of` and `judge_arrays`, which `judge` is made of;
arrays merely have as many rows as there are simulations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.gate.worlds import Drawn, World, candidate_of, draw, sampling_of, scaled
from tasks.statistics.changes import TaskArrays, part_of
from tasks.statistics.decision import judge_arrays
from tasks.statistics.looks import look_of_documents
from tasks.statistics.measurements import CheckedTask, TaskMeasurement
from tasks.statistics.plan import margin_of, planned_task
from tasks.statistics.rule import GateRule

BATCH_VALUES = 2_000_000
"""Documents times simulations that are held at once for each task."""


Target = Literal["at most", "at least", "promoted at most", "refused at most", "shown"]


@dataclass(frozen=True)
class Cell:
    """A truth, a rule, and what has to come of it."""

    family: str
    name: str
    worlds: tuple[World, ...]
    rule: GateRule = field(default_factory=GateRule)
    target: Target = "at most"
    """What `share` bounds. `at most`: false promotions. `at least`: promotions. `promoted at most`:
    any promotions. `refused at most`: candidates that fell back. `shown`: nothing, promotions."""
    share: float = 0.025
    simulations: int = 20_000


@dataclass
class Outcome:
    """Counts over all simulations of a cell."""

    cell: Cell
    simulations: int = 0
    promoted: int = 0
    false: int = 0
    """Promoted, although the truth forbids it."""
    fell_back: int = 0
    seen: float = 0.0
    """Sum over simulations of the share of documents that were evaluated."""
    margin: float = 0.0
    """Sum of the first task's margins."""

    @property
    def rate(self) -> float:
        """The share that the target is about."""
        counted = {"at most": self.false, "refused at most": self.fell_back}
        return counted.get(self.cell.target, self.promoted) / self.simulations

    @property
    def error(self) -> float:
        """One simulation error at the target's own rate, or at what was found without one."""
        share = self.rate if self.cell.target == "shown" else self.cell.share
        return float(np.sqrt(share * (1.0 - share) / self.simulations))

    @property
    def holds(self) -> bool:
        """Within three simulation errors of the target."""
        if self.cell.target == "at least":
            return self.rate >= self.cell.share
        return self.cell.target == "shown" or self.rate <= self.cell.share + 3.0 * self.error


def run_cell(cell: Cell, seed: int) -> Outcome:
    """Simulate a cell; the same seed gives the same counts."""
    outcome = Outcome(cell)
    largest = max(world.documents for world in cell.worlds)
    size = int(np.clip(BATCH_VALUES // largest, 50, 1000))
    source = np.random.Generator(np.random.PCG64(seed))
    while outcome.simulations < cell.simulations:
        count = min(size, cell.simulations - outcome.simulations)
        tasks, truths = arrays_of_batch(cell.worlds, cell.rule, count, source)
        _count(outcome, tasks, truths, source)
    return outcome


def arrays_of_batch(
    worlds: Sequence[World], rule: GateRule, count: int, source: np.random.Generator
) -> tuple[list[TaskArrays], list[NDArray[np.float64]]]:
    """A batch of candidates as the gate sees them, with each task's true change in units."""
    tasks, truths = [], []
    for index, (world, share) in enumerate(zip(worlds, scaled(worlds), strict=True)):
        sampling = sampling_of(world, source)
        drawn = draw(world, sampling, count, source)
        known = checked_batch(f"task {index}", drawn)
        whole, plan = planned_task(known, share, rule)
        margin = np.broadcast_to(margin_of(known, rule, plan), (count,))
        candidate, truth = candidate_of(drawn, whole.unit, margin)
        tasks.append(replace(whole, candidate=candidate, margin=margin))
        truths.append(truth)
    return tasks, truths


def checked_batch(name: str, drawn: Drawn) -> CheckedTask:
    """What `checked` makes of one simulation, for a batch of them."""
    world = drawn.world
    experts = {f"expert {index}": each for index, each in enumerate(drawn.experts)}
    return CheckedTask(
        measurement=TaskMeasurement(name, world.kind, drawn.baseline[0], share=world.share),
        sampling=drawn.sampling,
        baseline=drawn.baseline,
        candidate=None,
        experts=experts,
        places=np.arange(drawn.sampling.documents),
        evaluated=np.ones(drawn.sampling.documents, dtype=bool),
        left_out=0,
    )


def is_false(
    tasks: Sequence[TaskArrays], truths: Sequence[NDArray[np.float64]]
) -> NDArray[np.bool_]:
    """Where a promotion would be false: the mean is at most `exceed`, or a task lost its margin."""
    mean = sum(task.share * truth for task, truth in zip(tasks, truths, strict=True))
    false = mean <= tasks[0].rule.exceed + 1e-9
    for task, truth in zip(tasks, truths, strict=True):
        false = false | (truth <= -task.margin + 1e-9)
    return np.asarray(false)


def _count(
    outcome: Outcome,
    tasks: Sequence[TaskArrays],
    truths: Sequence[NDArray[np.float64]],
    source: np.random.Generator,
) -> None:
    rule = outcome.cell.rule
    count = len(truths[0])
    running = np.ones(count, dtype=bool)
    promoted = np.zeros(count, dtype=bool)
    seed = int(source.integers(2**31))
    orders = [look_of_documents(task.sampling, rule.looks, seed) for task in tasks]
    for look in range(1, rule.looks + 1):
        parts = [part_of(task, order <= look) for task, order in zip(tasks, orders, strict=True)]
        judged = judge_arrays(parts, look)
        seen = sum(task.share * part.information for task, part in zip(tasks, parts, strict=True))
        last = look == rule.looks
        stops = running & (judged.promoted | judged.fell_back | last)
        promoted |= running & judged.promoted
        outcome.fell_back += int((running & judged.fell_back).sum())
        outcome.seen += float(seen) * int(stops.sum())
        running &= ~stops
    outcome.simulations += count
    outcome.promoted += int(promoted.sum())
    outcome.false += int((promoted & is_false(tasks, truths)).sum())
    outcome.margin += float(tasks[0].margin.sum())
