"""Many candidates in a row: sixty nights on the same documents, and the best of thirty.

Each document has a probability of being answered right, 0.053 or 0.947, so that two draws of one
model differ on a tenth of the documents. A model's true change moves documents from one to the
other. The same documents make the same champion look lucky again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.gate.searches import search_of_equals
from benchmarks.gate.simulate import Cell, Outcome
from tasks.statistics.changes import TaskArrays
from tasks.statistics.decision import judge_arrays
from tasks.statistics.judge import judge
from tasks.statistics.measurements import TaskMeasurement
from tasks.statistics.recurring import nightly_rules
from tasks.statistics.rule import GateRule
from tasks.statistics.sampling import Sampling
from tasks.statistics.units import unit_of

Floats = NDArray[np.float64]
TASKS, DOCUMENTS, NIGHTS, MANY = 4, 400, 60, 30
_SURE = (1.0 + np.sqrt(1.0 - 2.0 * 0.1)) / 2.0
"""The q of 2 q (1 - q) = 0.1: two draws differ on a tenth of the documents."""
_RIGHT = 0.6
_BATCH = 500


def sixty_nights(cell: Cell, seed: int, *, anchored: bool, walk: bool) -> Outcome:
    """Promotions over sixty nights of a candidate that is truly no better than it must be.

    Args:
        anchored: against the champion and the anchor; else against the champion alone.
        walk: candidates are truly 3 points worse to equal, beside the anchor; else all are equal.
    """
    source = np.random.Generator(np.random.PCG64(seed))
    outcome = Outcome(cell)
    rules = nightly_rules(cell.rule, NIGHTS)
    while outcome.simulations < cell.simulations:
        count = min(_BATCH, cell.simulations - outcome.simulations)
        latent = [_latent(count, source) for _ in range(TASKS)]
        anchor = [_answers(each, source) for each in latent]
        champion = [each.copy() for each in anchor]
        ever = np.zeros(count, dtype=bool)
        for _ in range(NIGHTS):
            loss = source.random(count) * 0.03 if walk else np.zeros(count)
            tonight = [_answers(_worse(each, loss, source), source) for each in latent]
            passed = _judged(champion, tonight, rules["champion"])
            if anchored:
                passed &= _judged(anchor, tonight, rules["anchor"])
            ever |= passed
            for old, new in zip(champion, tonight, strict=True):
                old[passed] = new[passed]
        outcome.simulations += count
        outcome.promoted += int(ever.sum())
        outcome.false += int(ever.sum())
    return outcome


def best_of_many(cell: Cell, seed: int, *, fresh: bool) -> Outcome:
    """The best of thirty equal candidates, judged on fresh documents or on those that chose it."""
    source = np.random.Generator(np.random.PCG64(seed))
    outcome = Outcome(cell)
    while outcome.simulations < cell.simulations:
        count = min(_BATCH, cell.simulations - outcome.simulations)
        latent = [_latent(count, source) for _ in range(TASKS)]
        base = [_answers(each, source) for each in latent]
        best = [np.zeros_like(each) for each in base]
        highest = np.full(count, -1.0)
        for _ in range(MANY):
            one = [_answers(each, source) for each in latent]
            score = np.sum([each.sum(axis=-1) for each in one], axis=0)
            better = score > highest
            highest = np.where(better, score, highest)
            for kept, new in zip(best, one, strict=True):
                kept[better] = new[better]
        if fresh:
            latent = [_latent(count, source) for _ in range(TASKS)]
            base, best = ([_answers(each, source) for each in latent] for _ in range(2))
        promoted = int(_judged(base, best, cell.rule).sum())
        outcome.simulations += count
        outcome.promoted += promoted
        outcome.false += promoted
    return outcome


def one_nan(cell: Cell, seed: int) -> Outcome:
    """Candidates that are better everywhere, and NaN on one document: through `judge` itself."""
    source = np.random.Generator(np.random.PCG64(seed))
    outcome = Outcome(cell)
    for _ in range(cell.simulations):
        tasks = []
        for index in range(TASKS):
            base = np.asarray(source.random(DOCUMENTS) < _RIGHT, dtype=np.float64)
            better = np.where(source.random(DOCUMENTS) < 0.3, 1.0, base)
            if index == 0:
                better[source.integers(DOCUMENTS)] = np.nan
            tasks.append(TaskMeasurement(f"task {index}", "binary", base, better))
        result = judge(tasks, cell.rule)
        outcome.simulations += 1
        outcome.promoted += result.verdict == "promoted"
        outcome.fell_back += result.verdict == "fell_back"
    outcome.false = outcome.promoted
    return outcome


def sequence_cells() -> dict[Cell, tuple[str, dict[str, bool]]]:
    """Each cell with the simulation that fills it and its arguments."""
    nights, best = f"{NIGHTS} nights", f"best of {MANY} equal candidates"
    few = 2000
    return {
        Cell(nights, "equal models, champion and anchor", (), simulations=few): (
            "sixty_nights",
            {"anchored": True, "walk": False},
        ),
        Cell(nights, "0 to 3 points worse, champion and anchor", (), simulations=few): (
            "sixty_nights",
            {"anchored": True, "walk": True},
        ),
        Cell(nights, "equal models, champion alone", (), target="shown", simulations=few): (
            "sixty_nights",
            {"anchored": False, "walk": False},
        ),
        Cell(best, "fresh documents", (), share=0.05): ("best_of_many", {"fresh": True}),
        Cell(best, "the documents that chose it", (), target="shown", simulations=few): (
            "best_of_many",
            {"fresh": False},
        ),
        Cell(best, "a whole search with races", (), share=0.05, simulations=200): (
            "search_of_equals",
            {},
        ),
        Cell("NaN", "better everywhere, one NaN", (), share=0.0, simulations=200): ("one_nan", {}),
    }


def _latent(count: int, source: np.random.Generator) -> Floats:
    sure = (_RIGHT - (1.0 - _SURE)) / (2.0 * _SURE - 1.0)
    return np.where(source.random((count, DOCUMENTS)) < sure, _SURE, 1.0 - _SURE)


def _answers(latent: Floats, source: np.random.Generator) -> Floats:
    return np.asarray(source.random(latent.shape) < latent, dtype=np.float64)


def _worse(latent: Floats, loss: Floats, source: np.random.Generator) -> Floats:
    sure = (_RIGHT - (1.0 - _SURE)) / (2.0 * _SURE - 1.0)
    moved = source.random(latent.shape) < (loss / (sure * (2.0 * _SURE - 1.0)))[:, None]
    return np.where(moved, 1.0 - _SURE, latent)


def _judged(
    base: Sequence[Floats], candidate: Sequence[Floats], rule: GateRule
) -> NDArray[np.bool_]:
    sampling = Sampling(np.ones(DOCUMENTS))
    tasks = []
    for old, new in zip(base, candidate, strict=True):
        unit = unit_of(old, sampling, "binary", rule)
        task = TaskArrays(
            kind="binary",
            sampling=sampling,
            baseline=old,
            candidate=new,
            unit=unit,
            margin=np.full_like(unit, rule.margin),
            share=1.0 / TASKS,
            rule=rule,
        )
        tasks.append(task)
    return judge_arrays(tasks, rule.looks).promoted


def run_sequence(cell: Cell, name: str, arguments: dict[str, bool], seed: int) -> Outcome:
    """Run the simulation of that name."""
    runs = {"sixty_nights": sixty_nights, "best_of_many": best_of_many, "one_nan": one_nan}
    runs |= {"search_of_equals": search_of_equals}
    return runs[name](replace(cell), seed, **arguments)
