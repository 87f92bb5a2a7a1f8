"""Which merges a diagnosis evaluates: along each task vector, and along the line between models.

Frankle et al. 2020 (Linear mode connectivity, arXiv:1912.05671) look at the line between two
trained networks; Ilharco et al. 2023 (arXiv:2212.04089) at the scale of one task vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.recipe import Recipe

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Of a task vector: 0 is the base, 1 the model."""
LINE = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Places between two models."""
MOST_PAIRS = 6
_KEPT = (
    *("base_model", "dtype", "out_dtype", "tokenizer_source", "tokenizer", "chat_template"),
    *("allow_unrelated", "exclude"),
)


@dataclass(frozen=True)
class Path:
    """A line through the weights, with what is evaluated on it."""

    models: tuple[int, ...]
    """One model: along its task vector. Two: from the first to the second."""
    points: tuple[tuple[float, Recipe], ...]


def points_of(
    template: Recipe, base: str | None, models: Sequence[str], cosines: Sequence[float | None] = ()
) -> tuple[list[Path], int]:
    """The paths, and how many pairs were left out: those whose task vectors are most alike.

    Equal points of different paths have equal recipes.

    Args:
        base: reference of the common base; without one there are no task vectors to scale.
        models: references, in the diagnosis' order.
        cosines: of each pair of task vectors, where they are known.
    """
    paths = []
    if base is not None:
        for index, model in enumerate(models):
            points = tuple((scale, _sum(template, models, {model: scale})) for scale in SCALES)
            paths.append(Path((index,), points))
    pairs = list(combinations(range(len(models)), 2))
    known = [0.0 if cosine is None else cosine for cosine in cosines] or [0.0] * len(pairs)
    ranked = sorted(range(len(pairs)), key=lambda place: known[place])
    for place in sorted(ranked[:MOST_PAIRS]):
        i, j = pairs[place]
        one, other = models[i], models[j]
        line = tuple(
            (at, _between(template, base, models, {one: 1.0 - at, other: at})) for at in LINE
        )
        paths.append(Path((i, j), line))
    return paths, max(0, len(pairs) - MOST_PAIRS)


def _between(
    template: Recipe, base: str | None, models: Sequence[str], weights: dict[str, float]
) -> Recipe:
    if base is not None:  # a mean of models is the base and the mean of their task vectors
        return _sum(template, models, weights)
    listed = [name for name in models if weights.get(name)]
    return _recipe(template, "linear", {name: weights[name] for name in listed})


def _sum(template: Recipe, models: Sequence[str], weights: dict[str, float]) -> Recipe:
    """The base and weighted task vectors. The base alone is a sum, too: none of the first model."""
    listed = {name: weights[name] for name in models if weights.get(name)}
    return _recipe(template, "task_arithmetic", listed or {models[0]: 0.0})


def _recipe(template: Recipe, method: str, weights: dict[str, float]) -> Recipe:
    document = template.model_dump(mode="json", exclude_defaults=True)
    kept: dict[str, Any] = {key: document[key] for key in _KEPT if document.get(key)}
    if method == "linear":
        kept.pop("base_model", None)
    models = [{"model": n, "parameters": {"weight": weight}} for n, weight in weights.items()]
    return parse_recipe({**kept, "merge_method": method, "models": models})
