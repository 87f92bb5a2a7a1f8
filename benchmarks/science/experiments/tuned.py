"""Merges of several experts, each method at the scale that is best on tuning documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.science.laboratory import Candidate, Laboratory, Values
from benchmarks.science.texts import SKILLS, Documents, Skill

DENSITY = 0.2
"""What TIES' paper keeps; DARE here keeps as much."""
_SUM_SCALES = (0.1, 0.2, 0.3, 0.45, 0.65, 1.0)
_MEAN_SCALES = (0.5, 0.8, 1.2, 1.8, 2.7, 4.0)


@dataclass(frozen=True)
class Way:
    """A method and the scales that are tried of it."""

    name: str
    method: str
    parameters: Mapping[str, Any]
    scales: tuple[float, ...]

    def recipe(self, laboratory: Laboratory, experts: Sequence[Path], scale: float) -> Candidate:
        """The merge at a scale."""
        models = [(each, {"weight": 1.0}) for each in experts]
        return laboratory.recipe(self.method, models, **self.parameters, **{"lambda": scale})


ARITHMETIC = Way("task arithmetic", "task_arithmetic", {}, _SUM_SCALES)
WAYS = (
    ARITHMETIC,
    Way("TIES", "ties", {"density": DENSITY}, _MEAN_SCALES),
    Way(
        "DARE",
        "dare_linear",
        {"density": DENSITY, "rescale": "inverse_density"},
        _SUM_SCALES,
    ),
    Way(
        "DARE with TIES",
        "dare_ties",
        {"density": DENSITY, "rescale": "inverse_density"},
        _SUM_SCALES,
    ),
)


def chosen(
    laboratory: Laboratory,
    candidates: Mapping[Any, Candidate],
    documents: Sequence[Documents],
    gains: Sequence[float] | None = None,
) -> Any:
    """The name of the candidate that needs fewest bits on these documents.

    Args:
        gains: what each set of documents is measured by; by default all count alike.
    """
    units = gains or [1.0] * len(documents)

    def bits(candidate: Candidate) -> float:
        found = laboratory.values(candidate, documents)
        return sum(float(each.mean()) / unit for each, unit in zip(found, units, strict=True))

    return min(candidates, key=lambda name: bits(candidates[name]))


def tuned_scale(laboratory: Laboratory, way: Way, skills: Sequence[Skill]) -> float:
    """The scale at which the share of the experts' gains is largest on tuning documents."""
    documents = [laboratory.texts.texts(skill, "tuning") for skill in skills]
    experts = [laboratory.expert(skill) for skill in skills]
    before: list[Values] = laboratory.values(laboratory.base, documents)
    gains = [
        float(np.mean(start - laboratory.values(expert, [own])[0]))
        for start, expert, own in zip(before, experts, documents, strict=True)
    ]
    merges = {scale: way.recipe(laboratory, experts, scale) for scale in way.scales}
    return float(chosen(laboratory, merges, documents, gains))


def of_experts(
    count: int, extra: Callable[[Laboratory, Sequence[Path]], Mapping[str, Candidate]]
) -> Callable[[Laboratory], Mapping[str, Candidate]]:
    """The first `count` experts, the base, and what `extra` makes of them, by name."""

    def candidates(laboratory: Laboratory) -> Mapping[str, Candidate]:
        experts = [laboratory.expert(skill) for skill in SKILLS[:count]]
        alone = {str(skill): path for skill, path in zip(SKILLS, experts, strict=False)}
        return {"base": laboratory.base, **alone, **extra(laboratory, experts)}

    return candidates
