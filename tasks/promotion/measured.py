"""From reports to what the statistics take: one measurement a task, the experts' values with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

from merge_core.errors import StepError
from tasks.promotion.task_measurements import UnlikeDocumentsError, measurement
from tasks.records import EvaluationReport
from tasks.statistics import TaskMeasurement


def measurements(
    candidate: EvaluationReport,
    baseline: EvaluationReport,
    experts: Sequence[EvaluationReport],
    origin: EvaluationReport | None = None,
    must_hold: Mapping[str, float] | None = None,
    *,
    nan_as_worst: bool = False,
) -> list[TaskMeasurement]:
    """Every task, in the candidate's order.

    Args:
        candidate: what is judged. Before the merge: the baseline itself.
        origin: of the checkpoint that the experts were fine-tuned from; None: the baseline.
        must_hold: tasks that must hold, each with its margin in units; 0: no loss at all.

    Raises:
        StepError: the evaluations are not of the same documents.
    """
    named, wanted = _named(experts), must_hold or {}
    found = []
    for score in candidate.scores:
        try:
            theirs = {name: expert.score(score.task) for name, expert in named.items()}
            before = baseline.score(score.task)
            first = origin.score(score.task) if origin else None
            is_part = candidate.looks is not None and candidate.looks.is_part
            how = {"nan_as_worst": nan_as_worst, "is_part": is_part}
            one = measurement(score, before, theirs, first, **how)
        except (UnlikeDocumentsError, KeyError) as error:
            why = str(error) if isinstance(error, ValueError) else "do not all have scores"
            raise StepError(
                f"the evaluations of {candidate.reference}, of {baseline.reference} and of the"
                f" experts {why} in task '{score.task}'",
                where="decide",
                mend="evaluate all again with the same suite and the same data",
            ) from None
        margin = wanted.get(score.task)
        if margin:
            one = replace(one, margin=margin)
        found.append(replace(one, must_hold=margin == 0))
    return found


def _named(experts: Sequence[EvaluationReport]) -> Mapping[str, EvaluationReport]:
    """Experts by a short name, each of the same weights once."""
    distinct = list({expert.checkpoint_digest: expert for expert in experts}.values())
    names = [PurePath(expert.reference).name or expert.reference for expert in distinct]
    return {
        name if names.count(name) == 1 else f"{name} ({expert.checkpoint_digest[:8]})": expert
        for name, expert in zip(names, distinct, strict=True)
    }
