"""A candidate that was evaluated on a part of the documents, beside a whole evaluation."""

from __future__ import annotations

from tasks.records import EvaluationReport, TaskScore


def as_far(baseline: EvaluationReport, candidate: EvaluationReport) -> EvaluationReport:
    """A whole evaluation, its counts of odd answers scaled down to the candidate's documents."""
    if candidate.looks is None:
        return baseline
    return baseline.model_copy(
        update={"scores": tuple(_as_far(each, candidate) for each in baseline.scores)}
    )


def said_of_looks(candidate: EvaluationReport, baseline: EvaluationReport) -> tuple[str, ...]:
    """One sentence where an evaluation is not whole: how far it came. Else none."""
    looks = candidate.looks
    if looks is None or not looks.is_part:
        return ()
    seen, all_of_them = (
        sum(len(score.doc_ids) for score in report.scores) for report in (candidate, baseline)
    )
    return (
        f"the evaluation ended at look {looks.taken} of {looks.number}, after {seen} of"
        f" {all_of_them} documents: more would hardly have changed the verdict",
    )


def _as_far(score: TaskScore, candidate: EvaluationReport) -> TaskScore:
    share = len(candidate.score(score.task).doc_ids) / len(score.doc_ids)
    counts = {
        name: None if count is None else round(count * share)
        for name in ("empty", "cut_off", "looping", "answer_characters")
        for count in (getattr(score, name),)
    }
    return score.model_copy(update=counts)
