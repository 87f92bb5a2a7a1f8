"""Which evaluations can be compared, and what is said where they were not made quite alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from merge_core.errors import StepError
from tasks.promotion.bar import Bar
from tasks.records import EvaluationReport, TaskScore


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


def matching_order(score: TaskScore) -> list[int]:
    """The places of a task's documents in the order in which two evaluations are paired.

    By id; documents that are equal have equal ids, and are paired in the order of their values.
    """
    return sorted(
        range(len(score.doc_ids)),
        key=lambda i: (score.doc_ids[i], score.values[i], score.weights[i]),
    )


def other_prompts(candidate: TaskScore, baseline: TaskScore) -> int:
    """Documents that the two were asked with different prompts; 0 where prompts were not kept."""
    asked, before = candidate.prompt_hashes, baseline.prompt_hashes
    if asked is None or before is None:
        return 0
    others = Counter(zip(candidate.doc_ids, asked, strict=True))
    others -= Counter(zip(baseline.doc_ids, before, strict=True))
    return others.total()


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
