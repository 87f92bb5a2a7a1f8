"""The greedy soup: what is taken, in which order; it is never worse than the best single."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.search.greedy_soup import greedy_soup, ranking

SCORES = st.floats(-10, 10)


def test_checkpoints_are_tried_from_the_best_down_and_kept_when_better() -> None:
    averages = {(1, 3): 0.8, (1, 2, 3): 0.7, (0, 1, 3): 0.9}
    soup = greedy_soup([0.1, 0.7, 0.3, 0.5], lambda tried: averages[tried])
    assert soup.order == (1, 3, 2, 0)
    assert [trial.taken for trial in soup.trials] == [True, False, True]
    assert soup.ingredients == (0, 1, 3)
    assert soup.score == 0.9


def test_a_checkpoint_that_changes_nothing_is_left() -> None:
    soup = greedy_soup([0.5, 0.5], lambda tried: 0.5)
    assert (soup.ingredients, soup.score) == ((1,), 0.5)


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
