"""The simulation judges as `judge` does, and its worlds have the truth that they claim."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.gate.grid import POINTS_2, UNEQUAL, cells
from benchmarks.gate.simulate import Cell, arrays_of_batch, run_cell
from benchmarks.gate.table import page
from benchmarks.gate.worlds import AT_MARGIN, World
from tasks.statistics import GateRule, TaskMeasurement, judge
from tasks.statistics.changes import TaskArrays
from tasks.statistics.decision import judge_arrays

MIXED = (
    World(
        300,
        0.15,
        sizes=(2, 7, 30),
        correlation=0.4,
        experts=(0.1, 0.3),
        expert_change=0.4,
        shared=0.5,
    ),
    World(90, 0.2, kind="score", tail="skewed", long_tailed_weights=True, experts=(0.2,)),
    World(60, 0.5, kind="fraction"),
)


def measurement(task: TaskArrays, index: int, row: int) -> TaskMeasurement:
    groups = task.sampling.groups
    return TaskMeasurement(
        name=f"task {index}",
        kind=task.kind,
        baseline=task.baseline[row],
        candidate=task.candidate[row],
        experts={f"expert {place}": each[row] for place, each in enumerate(task.experts)},
        weights=task.sampling.weights,
        clusters=None if groups is None else groups.index,
    )


def test_a_batch_is_judged_as_each_candidate_alone() -> None:
    rule = GateRule()
    tasks, _ = arrays_of_batch(MIXED, rule, 60, np.random.default_rng(3))
    judged = judge_arrays(tasks)
    verdicts = set()
    for row in range(60):
        alone = judge([measurement(task, index, row) for index, task in enumerate(tasks)], rule)
        verdicts.add(alone.verdict)
        assert alone.primary.low == pytest.approx(judged.primary.low[row], abs=1e-12)
        for index, result in enumerate(alone.tasks):
            assert result.margin == pytest.approx(tasks[index].margin[row], abs=1e-12)
            assert (result.outcome == "held") == judged.guards[index].held[row]
            assert result.blame_p == pytest.approx(judged.blame[row, index], abs=1e-12)
        assert (alone.verdict == "promoted") == judged.promoted[row]
        assert (alone.verdict == "fell_back") == judged.fell_back[row]
    assert len(verdicts) > 1


@pytest.mark.parametrize(
    "world",
    [
        World(400, -0.1, flips=0.1),
        World(400, -0.1, flips=0.0, sizes=(10,), correlation=0.5),
        World(400, 0.1, kind="score", tail="t2.5"),
        World(400, -0.2, kind="score", tail="skewed"),
        World(400, -0.2, kind="score", tail="disaster in long documents", long_tailed_weights=True),
    ],
)
def test_worlds_change_by_what_they_say(world: World) -> None:
    tasks, truths = arrays_of_batch((world,), GateRule(), 1500, np.random.default_rng(1))
    change = tasks[0].spread.mean / tasks[0].unit
    error = change.std() / np.sqrt(len(change))
    assert truths[0] == pytest.approx(world.change)
    assert abs(change.mean() - world.change) < 4 * error + 0.001


def test_documents_of_a_group_move_together() -> None:
    world = World(200, 0.0, flips=0.3, sizes=(2,), correlation=0.5)
    tasks, _ = arrays_of_batch((world,), GateRule(), 1000, np.random.default_rng(1))
    pairs = tasks[0].change.reshape(-1, 2)
    assert np.corrcoef(pairs.T)[0, 1] == pytest.approx(0.5, abs=0.02)


def test_the_gate_promotes_rarely_what_it_must_not_and_often_what_it_should() -> None:
    helper = World(400, 0.6, flips=0.3)
    worlds = World(200, AT_MARGIN), World(400, AT_MARGIN, sizes=(10,), correlation=0.6)
    for seed, world in enumerate(worlds):
        assert run_cell(Cell("", "", (world, helper), simulations=2000), seed).holds
    unequal = World(1000, AT_MARGIN, flips=0.0, sizes=UNEQUAL["groups of 1 to 40"], correlation=0.3)
    assert run_cell(Cell("", "", (unequal, helper), simulations=1000), 5).holds
    four = (World(400, POINTS_2, experts=(0.1,)),) * 4
    for looks in (1, 5):
        rule = GateRule(looks=looks)
        powerful = Cell("", "", four, rule, "at least", 0.60, simulations=300)
        assert run_cell(powerful, 6).holds
        bits = World(100, 0.1, kind="score", tail="normal", experts=(0.2,))
        assert run_cell(Cell("", "", (bits,), rule, "at least", 0.9, simulations=300), 6).holds


def test_a_certain_gain_does_not_pay_for_a_loss_that_no_document_shows() -> None:
    rule = GateRule(margin=4.0, widest_margin=4.0)
    worlds = (World(400, 0.1, kind="score"), World(100, -0.1, flips=0.0))
    outcome = run_cell(Cell("", "", worlds, rule, simulations=3000), 1)
    assert outcome.false == outcome.promoted
    assert outcome.holds


def test_every_cell_has_a_name_of_its_own_and_the_page_shows_it() -> None:
    grid = list(cells())
    assert len({(cell.family, cell.name) for cell in grid}) == len(grid)
    outcomes = [run_cell(Cell("family", "cell", MIXED, simulations=50), 1)]
    assert "| cell | false promotions | false promotions, at most 2.5 % |" in page(outcomes, "Few.")
