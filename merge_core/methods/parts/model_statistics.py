"""Model statistics of task vectors: sums such as norms, and the magnitude that a share exceeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from merge_core.errors import RecipeError
from merge_core.methods.base import Block, ModelStatistics, Observer, TensorJob
from merge_core.methods.parameter import Parameter
from merge_core.methods.parts.sparsify import KeepAll, Sparsifier, kept_count
from merge_core.methods.parts.top_k import AboveThreshold, ThresholdSearch, magnitude_bits
from merge_core.reductions.sums import Sum
from merge_core.runtime.lazy_torch import torch

GLOBAL, TENSOR = "global", "tensor"


def scope_parameter(what: str, default: str) -> Parameter:
    """Whether something is done tensor by tensor or over the whole model."""
    return Parameter(
        "scope",
        f"{what} in each tensor by itself, or over the whole model (global)",
        default,
        kind="word",
        choices=(TENSOR, GLOBAL),
    )


def is_global(job: TensorJob) -> bool:
    """Whether a tensor's `scope` is the whole model."""
    return job.parameters["scope"] == GLOBAL


class GlobalTrim(ModelStatistics):
    """For each model the max(1, int(density * N)) largest of all N entries of its task vector.

    Magnitudes are compared as float32. Among equal ones the first tensors by name count, and in the
    last of them the lowest indices. Two passes find the magnitude; a third, needed only where equal
    magnitudes must be told apart, counts those of each tensor.

    Raises:
        RecipeError: a model's density differs between tensors.
    """

    passes = 3

    def __init__(self, jobs: Sequence[TensorJob]) -> None:
        trimmed = [job for job in jobs if is_global(job)]
        sizes: dict[int, int] = {}
        densities: dict[int, float] = {}
        for job in trimmed:
            for model, density in zip(job.models, job.numbers("density"), strict=True):
                sizes[model] = sizes.get(model, 0) + job.numel
                if densities.setdefault(model, density) != density:
                    raise RecipeError(
                        "scope: global trims a model's task vector as a whole, but its density is"
                        f" {densities[model]:g} for some tensors and {density:g} for {job.name}",
                        where="parameters.scope",
                        mend="give each model one density, or set scope: tensor",
                    )
        self._searches = {
            model: ThresholdSearch(kept_count(densities[model], sizes[model]))
            for model in sizes
            if densities[model] < 1
        }
        self._ties: dict[int, dict[str, int]] = {model: {} for model in self._searches}
        self._wanted: dict[int, dict[str, int]] = {}

    @property
    def is_needed(self) -> bool:
        """Whether any task vector is trimmed at all."""
        return bool(self._searches)

    def observer(self, index: int, job: TensorJob) -> Observer | None:
        if not is_global(job):
            return None
        sought = [self._searches.get(model) for model in job.models]
        if index < ThresholdSearch.passes:
            return _Histograms(index, sought)
        return _TieCounts(sought)

    def reduce(self, index: int, job: TensorJob, observer: Observer) -> None:
        if isinstance(observer, _Histograms):
            for search, histogram in zip(observer.searches, observer.histograms, strict=True):
                if search is not None:
                    search.add(index, histogram)
        elif isinstance(observer, _TieCounts):
            for model, count in zip(job.models, observer.counts, strict=True):
                if model in self._ties:
                    self._ties[model][job.name] = count

    def conclude(self, index: int) -> None:
        if index < ThresholdSearch.passes:
            for search in self._searches.values():
                search.conclude(index)
        has_ties = any(it.found and it.ties_wanted is not None for it in self._searches.values())
        if index == ThresholdSearch.passes - 1 and not has_ties:
            self.passes = index + 1
        if index == ThresholdSearch.passes:
            self._share_out()

    def to_json(self) -> dict[str, Any]:
        return {
            str(model): {
                "found": search.found,
                "threshold": search.threshold,
                "ties_wanted": search.ties_wanted,
                "ties": self._ties[model],
                "wanted": self._wanted.get(model, {}),
            }
            for model, search in self._searches.items()
        }

    def from_json(self, values: Mapping[str, Any]) -> None:
        for model, search in self._searches.items():
            found = values[str(model)]
            search.found, search.threshold = found["found"], found["threshold"]
            search.ties_wanted = found["ties_wanted"]
            self._ties[model], self._wanted[model] = found["ties"], found["wanted"]

    def keepers(self, job: TensorJob) -> list[Sparsifier]:
        """For each input of a tensor, what of it stays."""
        return [self._keeper(model, job.name) for model in job.models]

    def _keeper(self, model: int, tensor: str) -> Sparsifier:
        search = self._searches.get(model)
        if search is None:
            return KeepAll()
        if not search.found:
            return _KeepAbove(None)
        if search.ties_wanted is None:
            return _KeepAbove(AboveThreshold(search.threshold, None))
        wanted = self._wanted[model][tensor]
        everything = wanted == self._ties[model][tensor]
        return _KeepAbove(AboveThreshold(search.threshold, None if everything else wanted))

    def _share_out(self) -> None:
        """Give the places left for entries of just the threshold's magnitude to the first ones."""
        for model, search in self._searches.items():
            left = search.ties_wanted or 0
            self._wanted[model] = {}
            for tensor, count in sorted(self._ties[model].items()):
                self._wanted[model][tensor] = min(count, left)
                left -= self._wanted[model][tensor]


class WholeModelSums(ModelStatistics):
    """For each model a sum over all entries of its whole task vector.

    Args:
        measure: takes a block of a task vector (flat, float64), returns one value for each entry.
        included: whether a tensor is part of the sum; all are by default.
    """

    def __init__(
        self,
        measure: Callable[[torch.Tensor], torch.Tensor],
        included: Callable[[TensorJob], bool] | None = None,
    ) -> None:
        self._measure = measure
        self._included = included
        self._parts: dict[int, dict[str, float]] = {}

    def observer(self, index: int, job: TensorJob) -> Observer | None:
        if self._included is not None and not self._included(job):
            return None
        return _TensorSums(self._measure, len(job.models))

    def reduce(self, index: int, job: TensorJob, observer: Observer) -> None:
        assert isinstance(observer, _TensorSums)
        for model, total in zip(job.models, observer.totals, strict=True):
            self._parts.setdefault(model, {})[job.name] = total.value

    def to_json(self) -> dict[str, Any]:
        return {
            str(model): {tensor: part.hex() for tensor, part in parts.items()}
            for model, parts in self._parts.items()
        }

    def from_json(self, values: Mapping[str, Any]) -> None:
        self._parts = {
            int(model): {tensor: float.fromhex(part) for tensor, part in parts.items()}
            for model, parts in values.items()
        }

    def sums(self, job: TensorJob) -> list[float]:
        """For each input of a tensor the sum of its model."""
        return [math.fsum(self._parts[model].values()) for model in job.models]


def global_norms() -> WholeModelSums:
    """The squared Euclidean norm of each whole task vector, over the tensors of global scope."""
    return WholeModelSums(lambda delta: delta * delta, is_global)


class _KeepAbove(Sparsifier):
    """Entries above a threshold that was found before; none without one."""

    def __init__(self, chosen: AboveThreshold | None) -> None:
        self._chosen = chosen
        self.passes = chosen.passes if chosen else 0

    def observe(self, index: int, delta: torch.Tensor, start: int) -> None:
        if self._chosen is not None:
            self._chosen.observe(delta, start)

    def keep(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        if self._chosen is None:
            return torch.zeros_like(delta, dtype=torch.bool)
        return self._chosen.mask(delta, start)


class _Histograms(Observer):
    def __init__(self, index: int, searches: list[ThresholdSearch | None]) -> None:
        self._index = index
        self.searches = searches
        self.histograms: list[torch.Tensor | None] = [None] * len(searches)

    def observe(self, block: Block) -> None:
        for position, delta in enumerate(block.task_vectors):
            search = self.searches[position]
            counted = search.histogram(self._index, delta) if search is not None else None
            before = self.histograms[position]
            if counted is not None:
                self.histograms[position] = counted if before is None else before + counted


class _TieCounts(Observer):
    def __init__(self, searches: list[ThresholdSearch | None]) -> None:
        self._searches = searches
        self.counts = [0] * len(searches)

    def observe(self, block: Block) -> None:
        for position, delta in enumerate(block.task_vectors):
            search = self._searches[position]
            if search is not None and search.found:
                self.counts[position] += int((magnitude_bits(delta) == search.threshold).sum())


class _TensorSums(Observer):
    def __init__(self, measure: Callable[[torch.Tensor], torch.Tensor], models: int) -> None:
        self._measure = measure
        self.totals = [Sum() for _ in range(models)]

    def observe(self, block: Block) -> None:
        for total, delta in zip(self.totals, block.task_vectors, strict=True):
            total.add(self._measure(delta))
