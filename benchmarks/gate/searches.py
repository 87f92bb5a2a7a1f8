"""Whole searches of equal candidates, through the code of the search itself: its rungs and races,
its results, its choice; then the decision on documents that no candidate saw.

Each document has a true value, and every model that is as good as the base draws around it.
"""

from __future__ import annotations

import numpy as np

from benchmarks.gate.simulate import Cell, Outcome
from tasks.promotion.measured import measurements
from tasks.records import EvaluationReport, LooksTaken, TaskScore
from tasks.search.race import Race, result_of, rungs_of
from tasks.search.selection import best
from tasks.search.trial import Trial
from tasks.statistics import judge

DOCUMENTS, GROUP, CANDIDATES = 320, 4, 30
"""Of each task and half; how many of a file belong together."""
_BYTES = 100.0
_RIGHT = (0.053, 0.947)
"""Two draws of one model differ on a tenth of the documents."""


def search_of_equals(cell: Cell, seed: int) -> Outcome:
    """Promotions of the best of thirty candidates that are truly as good as the base."""
    source = np.random.Generator(np.random.PCG64(seed))
    outcome = Outcome(cell)
    for _ in range(cell.simulations):
        base, *candidates = _reports(CANDIDATES + 1, source)
        rungs = rungs_of(base, _reports(1, source))
        trials, seen = [], {}
        for number, whole in enumerate(candidates):
            first = best(trials)
            beside = (first, seen[first.number]) if first else None
            race = Race(base, beside[1], rungs) if beside and rungs else None
            report = _as_far_as(whole, race) if race else whole
            result = result_of(report, base, beside).model_copy(update={"recipe": str(number)})
            trials.append(Trial(number=number, values={"weight": number}, result=result))
            seen[number] = report
        winner = best(trials)
        assert winner is not None
        # The other half's documents are drawn apart: of equals, none is better there.
        held_to, chosen = _reports(2, source)
        verdict = judge(measurements(chosen, held_to, []), cell.rule).verdict
        outcome.simulations += 1
        outcome.promoted += verdict == "promoted"
        lost = sum(trial.result.outcome == "lost" for trial in trials)
        outcome.seen += 1.0 - lost / CANDIDATES
    outcome.false = outcome.promoted
    return outcome


def _reports(count: int, source: np.random.Generator) -> list[EvaluationReport]:
    """Evaluations of models that are equally good, on the same documents of two tasks."""
    hardness = source.gamma(9.0, 0.5, DOCUMENTS)
    sure = source.choice(_RIGHT, DOCUMENTS)
    return [
        _report(
            f"model {index}",
            (hardness + source.normal(0.0, 0.3, DOCUMENTS)) * _BYTES,
            (source.random(DOCUMENTS) < sure).astype(float),
        )
        for index in range(count)
    ]


def _report(name: str, bits: object, right: object) -> EvaluationReport:
    tasks = (("bits", "bits_per_byte", False, bits, _BYTES), ("quiz", "acc", True, right, 1.0))
    scores = tuple(
        TaskScore(
            task=task,
            metric=metric,
            higher_is_better=higher,
            score=float(np.sum(values) / (weight * DOCUMENTS)),
            doc_ids=tuple(f"{task} {place}" for place in range(DOCUMENTS)),
            clusters=tuple(f"file {place // GROUP}" for place in range(DOCUMENTS)),
            values=tuple(np.asarray(values).tolist()),
            weights=(weight,) * DOCUMENTS,
        )
        for task, metric, higher, values, weight in tasks
    )
    return EvaluationReport(
        checkpoint_digest=name,
        reference=name,
        suite="simulated",
        suite_digest="simulated",
        lm_eval_version="none",
        transformers_version="none",
        device="cpu",
        scores=scores,
    )


def _as_far_as(whole: EvaluationReport, race: Race) -> EvaluationReport:
    """What a race has seen of a candidate when it stops."""
    for rung in range(1, race.number):
        report = _part(whole, race, rung)
        if not race.goes_on(report):
            return report
    return whole


def _part(whole: EvaluationReport, race: Race, rung: int) -> EvaluationReport:
    scores = []
    for score, rungs in zip(whole.scores, race.of_documents(), strict=True):
        kept = [place for place, each in enumerate(rungs) if each <= rung]
        fields = ("values", "weights", "doc_ids", "clusters")
        parts = {name: tuple(getattr(score, name)[place] for place in kept) for name in fields}
        scores.append(score.model_copy(update=parts))
    looks = LooksTaken(number=race.number, taken=rung, by=race.by)
    return whole.model_copy(update={"scores": tuple(scores), "looks": looks})
