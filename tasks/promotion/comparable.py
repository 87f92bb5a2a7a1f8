"""Which evaluations can be compared, and what is said where they were not made quite alike."""

from __future__ import annotations

from collections.abc import Sequence

from merge_core.errors import StepError
from tasks.promotion.bar import Bar
from tasks.records import EvaluationReport


def check_comparable(candidate: EvaluationReport, other: EvaluationReport) -> None:
    """Refuse evaluations that were made with different means, or of which one is a part.

    Raises:
        StepError: says what differs.
    """
    made = {
        "suites": (candidate.suite_digest, other.suite_digest),
        "lm-eval versions": (candidate.lm_eval_version, other.lm_eval_version),
        "transformers versions": (candidate.transformers_version, other.transformers_version),
        "kinds of device": tuple(r.device.partition(":")[0] for r in (candidate, other)),
    }
    for what, (one, two) in made.items():
        if one != two:
            raise StepError(
                f"the evaluations of {candidate.reference} and {other.reference} were made with"
                f" different {what} ({one[:12]} and {two[:12]})",
                where="decide",
                mend="evaluate both again in the same way",
            )
    if other.looks is not None and other.looks.is_part:
        raise StepError(
            f"the evaluation of {other.reference} stopped early, at look {other.looks.taken} of"
            f" {other.looks.number}, and only the candidate's may",
            where="decide",
            mend="evaluate it with `mergeflow evaluate`, which always evaluates everything",
        )


def check_looks(candidate: EvaluationReport, bar: Bar) -> None:
    """Refuse to judge what one rule has looked at on its way by another one.

    Raises:
        StepError: the candidate's evaluation stops for another rule, or beside other baselines.
    """
    looks = candidate.looks
    if looks and (looks.number, looks.by) != (bar.rule.looks, bar.by):
        raise StepError(
            f"another rule, or other baselines, decided when the evaluation of"
            f" {candidate.reference} was to stop (it took {looks.taken} of {looks.number} looks)",
            where="decide",
            mend="decide with the rule and the reports of the run that evaluated it; to decide by"
            " another rule, evaluate it with `mergeflow evaluate`",
        )


def said_of_batches(
    candidate: EvaluationReport, others: Sequence[EvaluationReport]
) -> tuple[str, ...]:
    """That evaluations had different batch sizes, where that is known."""
    sizes = {report.batch_size for report in (candidate, *others) if report.batch_size}
    if len(sizes) < 2:
        return ()
    told = " and ".join(map(str, sorted(sizes)))
    return (
        f"the evaluations had batches of {told}: the last digits of their scores differ for that"
        " alone",
    )
