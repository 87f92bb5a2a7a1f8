"""Answers that are odd in form: empty, cut off, repeating themselves, much longer or shorter.

A score need not show them: a model that answers questions of safety with nothing may keep it.
Evaluations keep how many there are, and not on which documents. So two counts are compared without
pairing documents, which takes more of a difference for chance: the careful side.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Literal

from tasks.records import AnswersOfTask, EvaluationReport, Outcome, TaskScore

Kind = Literal["empty", "cut_off", "looping"]
KINDS: tuple[Kind, ...] = ("empty", "cut_off", "looping")
_FEWEST = 20
"""Documents of which a task's lengths are compared."""


def compare_answers(
    candidate: EvaluationReport,
    baseline: EvaluationReport,
    *,
    more: float,
    times: float,
    quantile: float,
) -> tuple[AnswersOfTask, ...]:
    """What became odd, task by task. Tasks whose answers are not counted are left out.

    Args:
        more: the share of a task's documents by which each kind may become more frequent.
        times: how many times longer or shorter answers may become on average.
        quantile: how many standard errors are more than chance.
    """
    found: list[AnswersOfTask] = []
    for score in candidate.scores:
        before = baseline.score(score.task)
        for kind in KINDS:
            found += _of_kind(kind, score, before, more, quantile)
        found += _length(score, before, times)
    return tuple(found)


def uncounted(candidate: EvaluationReport, baseline: EvaluationReport) -> tuple[str, ...]:
    """Tasks whose answers were counted for one of the two alone, as an older mergeflow did not."""
    return tuple(
        score.task
        for score in candidate.scores
        if (score.looping is None) != (baseline.score(score.task).looping is None)
    )


def _of_kind(
    kind: Kind, score: TaskScore, before: TaskScore, more: float, quantile: float
) -> Sequence[AnswersOfTask]:
    old, new, documents = getattr(before, kind), getattr(score, kind), len(score.doc_ids)
    if old is None or new is None or new <= old:
        return ()
    outcome: Outcome = "held"
    if new - old > more * documents:
        outcome = "regressed" if new - old > quantile * sqrt(new + old) else "unclear"
    return (
        AnswersOfTask(
            task=score.task, what=kind, before=old, now=new, documents=documents, outcome=outcome
        ),
    )


def _length(score: TaskScore, before: TaskScore, times: float) -> Sequence[AnswersOfTask]:
    old, new, documents = before.answer_characters, score.answer_characters, len(score.doc_ids)
    if not old or new is None or documents < _FEWEST:
        return ()
    is_near = old <= new * times and new <= old * times
    return (
        AnswersOfTask(
            task=score.task,
            what="length",
            before=old / documents,
            now=new / documents,
            documents=documents,
            outcome="held" if is_near else "regressed",
        ),
    )
