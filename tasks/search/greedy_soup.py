"""Greedy soup: an average of those checkpoints that make it better, found by trying.

Wortsman et al. 2022, Model soups (arXiv:2203.05482), recipe 1: sort by score on held-out data, take
the best, and add each next one if the average is better for it. (The paper adds at a tie, too. Here
a checkpoint that changes nothing is left, so the soup is the best of all that was tried.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from merge_core.records import Record


class Trial(Record):
    """One try to add a checkpoint."""

    candidate: int
    score: float
    """Of the average with the candidate in it."""
    taken: bool


class Soup(Record):
    """The checkpoints of the final average, and those that were tried, each by its position."""

    order: tuple[int, ...]
    """All of them, the best first."""
    singles: tuple[float, ...]
    """Score of each checkpoint alone, in their own order."""
    trials: tuple[Trial, ...]
    ingredients: tuple[int, ...]
    """Those in the soup, in their own order."""
    score: float
    """Of the soup; never below that of the best single checkpoint."""


def ranking(singles: Sequence[float]) -> tuple[int, ...]:
    """Positions of the scores, the best first; of equal ones the later checkpoint."""
    return tuple(sorted(range(len(singles)), key=lambda each: (-singles[each], -each)))


def greedy_soup(
    singles: Sequence[float], score_of_average: Callable[[tuple[int, ...]], float]
) -> Soup:
    """Find the soup.

    Args:
        singles: score of each checkpoint alone, higher being better; at least one.
        score_of_average: score of the uniform average of the checkpoints at these positions.
    """
    order = ranking(singles)
    ingredients, best = order[:1], singles[order[0]]
    trials = []
    for candidate in order[1:]:
        tried = tuple(sorted((*ingredients, candidate)))
        score = score_of_average(tried)
        taken = score > best
        trials.append(Trial(candidate=candidate, score=score, taken=taken))
        if taken:
            ingredients, best = tried, score
    return Soup(
        order=order,
        singles=tuple(singles),
        trials=tuple(trials),
        ingredients=ingredients,
        score=best,
    )
