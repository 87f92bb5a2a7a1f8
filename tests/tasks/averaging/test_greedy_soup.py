"""The greedy soup: what is taken, in which order; it is never worse than the best single."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.averaging.greedy_soup import greedy_soup, overall, ranking
from tasks.records import EvaluationReport, TaskScore

SCORES = st.floats(-10, 10)


def test_checkpoints_are_tried_from_the_best_down_and_kept_when_not_worse() -> None:
    averages = {(1, 3): 0.8, (1, 2, 3): 0.7, (0, 1, 3): 0.8}
    soup = greedy_soup([0.1, 0.7, 0.3, 0.5], lambda tried: averages[tried])
    assert soup.order == (1, 3, 2, 0)
    assert [trial.taken for trial in soup.trials] == [True, False, True]
    assert soup.ingredients == (0, 1, 3)
    assert soup.score == 0.8


def test_of_equal_scores_the_later_checkpoint_comes_first() -> None:
    assert ranking([1.0, 2.0, 2.0, 1.0]) == (2, 1, 3, 0)


@given(st.lists(SCORES, min_size=1, max_size=7), st.randoms(use_true_random=False))
def test_the_soup_is_never_worse_than_the_best_single(singles: list[float], random: object) -> None:
    scored: dict[tuple[int, ...], float] = {}

    def score(tried: tuple[int, ...]) -> float:
        return scored.setdefault(tried, random.uniform(-10, 10))  # type: ignore[attr-defined]

    soup = greedy_soup(singles, score)
    assert soup.score >= max(singles)
    assert soup.score == scored.get(soup.ingredients, max(singles))
    assert len(soup.trials) == len(singles) - 1


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
