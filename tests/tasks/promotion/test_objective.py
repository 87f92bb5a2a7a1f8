"""One number for a whole suite, by the former gate."""

from __future__ import annotations

import pytest

from tasks.promotion.objective import overall
from tasks.records import EvaluationReport, TaskScore


def report(bits: float, accuracy: float) -> EvaluationReport:
    scores = [("code", "bits_per_byte", False, bits), ("quiz", "acc", True, accuracy)]
    return EvaluationReport(
        checkpoint_digest="d",
        reference="r",
        suite="s",
        suite_digest="s",
        lm_eval_version="1",
        transformers_version="1",
        device="cpu",
        scores=tuple(
            TaskScore(
                task=task,
                metric=metric,
                higher_is_better=higher,
                score=value,
                doc_ids=(),
                values=(),
                weights=(),
            )
            for task, metric, higher, value in scores
        ),
    )


def test_the_score_of_a_suite_weighs_tasks_by_their_size_and_direction() -> None:
    reference = report(2.0, 0.5)
    gain = overall(report(1.8, 0.5), reference) - overall(reference, reference)
    assert gain == pytest.approx(0.05)
    better, worse = overall(report(2.0, 0.6), reference), overall(report(2.0, 0.4), reference)
    assert better > overall(reference, reference) > worse
