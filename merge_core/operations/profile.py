"""The profile of task vectors: how long they are, where, how they agree, how they are spread.

One streaming pass in constant memory. What a person needs to choose weights and densities.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import combinations

import numpy as np

from merge_core.errors import NonFiniteError, RecipeError
from merge_core.files.digests import digest_of
from merge_core.operations.common_tensors import common_tensors, nbytes, runs_of
from merge_core.operations.profile_sums import Floats, Integers, Sums, bin_values, sum_run
from merge_core.progress import Progress, Throttle
from merge_core.records import Record, SourceCheckpoint
from merge_core.runtime.threads import default_threads, ordered_map
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.names import Group, group_of, stack_of

VERSION = 1
"""Raised when the same checkpoints would give another profile; part of `profile_key`."""
QUANTILES = (0.5, 0.9, 0.99, 0.999)
"""Shares of weights whose greatest |τ| is reported."""
MAX_TENSOR_ROWS = 2000
_MAX_SKIPPED = 20
_BIN_VALUES = bin_values()


class Section(Record):
    """Task vectors over one part of the model: all of it, one layer, one kind of tensor.

    Tuples run over the models in the profile's order; pairs over `TaskVectorProfile.pairs`.
    """

    name: str
    tensors: int
    parameters: int
    base_norm: float
    """||θ0||, Euclidean like all norms here."""
    norms: tuple[float, ...]
    """||τi||."""
    changed: tuple[float, ...]
    """Share of weights that differ from the base at all."""
    cosines: tuple[float | None, ...]
    """Of each pair of task vectors; None where one of them is zero."""
    conflicts: tuple[float, ...]
    """For each pair: among the weights that both changed, the share moved opposite ways."""
    any_conflict: float
    """Among the weights that two or more models changed, the share where any two disagree."""
    magnitudes: tuple[tuple[float, ...], ...]
    """For each model: the |τ| that the share `QUANTILES[k]` of its weights does not exceed."""
    thresholds: tuple[tuple[float, ...], ...]
    """For each model: the least |τ| among the share `densities[k]` of largest ones."""
    kept: tuple[tuple[float, ...], ...]
    """For each model: the share of ||τ||² that is left when each tensor is trimmed to a density."""

    @property
    def relative_norms(self) -> tuple[float, ...]:
        """||τi|| / ||θ0||; 0 where the base is zero."""
        return tuple(norm / self.base_norm if self.base_norm else 0.0 for norm in self.norms)


class TensorNorms(Record):
    """Task vectors in one tensor."""

    name: str
    parameters: int
    base_norm: float
    norms: tuple[float, ...]
    cosines: tuple[float | None, ...]
    any_conflict: float


class TaskVectorProfile(Record):
    """What `profile_task_vectors` measured.

    Norms, cosines and conflicts are exact up to rounding to six digits; magnitudes and thresholds
    are within 0.5 %, being read from a histogram.
    """

    base: str
    models: tuple[str, ...]
    densities: tuple[float, ...]
    quantiles: tuple[float, ...]
    overall: Section
    layers: tuple[Section, ...]
    groups: tuple[Section, ...]
    """Embeddings, attention, mlp, norms, head, other: those that exist."""
    tensors: tuple[TensorNorms, ...]
    """In model order; of a model with more than 2000, those that changed most."""
    tensors_left_out: int = 0
    skipped: tuple[str, ...] = ()
    """Tensors without a task vector: not floats, or not in all models with the same shape."""

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Indices of the models of each pair, in the order of `cosines` and `conflicts`."""
        return _pairs(len(self.models))


def profile_task_vectors(
    base: SourceCheckpoint,
    models: Sequence[SourceCheckpoint],
    *,
    densities: Sequence[float] = (0.1, 0.2, 0.5),
    threads: int | None = None,
    progress: Progress | None = None,
) -> TaskVectorProfile:
    """Measure each model's difference from the base, in one pass over all weights.

    Args:
        densities: shares of weights to keep (TIES' density) for which thresholds are wanted.
        threads: more are faster and change nothing in the result.

    Raises:
        CompatibilityError: no tensor is common to base and models.
        NonFiniteError: a weight is NaN or infinite.
        CheckpointError: an input is damaged.
        RecipeError: a density is not above 0 and at most 1.
    """
    for density in densities:
        if not 0.0 < density <= 1.0:
            raise RecipeError(f"density {density} is not above 0 and at most 1", where="densities")
    rows, skipped = common_tensors(base, models)
    profile = _Profile(len(models), tuple(densities))
    throttle = Throttle(progress, "task vectors", sum(map(nbytes, rows)))
    with BlockReader() as reader:

        def measure(run: tuple[int, int, int]) -> tuple[int, Sums]:
            index, first, last = run
            entries = rows[index]
            return index, sum_run(entries[0], entries[1:], reader, first, last)

        current = Sums.zero(len(models))
        with closing(ordered_map(measure, runs_of(rows), threads or default_threads())) as runs:
            for index, sums in runs:
                current.add(sums)
                entries = rows[index]
                throttle.advance(nbytes(entries) * sums.elements // entries[0].numel)
                if current.elements == entries[0].numel:
                    profile.add(entries[0].name, current)
                    current = Sums.zero(len(models))
    tensors, left_out = profile.bounded_tensors()
    return TaskVectorProfile(
        base=base.reference,
        models=tuple(model.reference for model in models),
        densities=tuple(densities),
        quantiles=QUANTILES,
        overall=profile.overall.section("all"),
        layers=profile.finished_layers(),
        groups=tuple(total.section(name) for name, total in profile.groups.items()),
        tensors=tensors,
        tensors_left_out=left_out,
        skipped=tuple(skipped[:_MAX_SKIPPED]),
    )


def profile_key(
    base: SourceCheckpoint,
    models: Sequence[SourceCheckpoint],
    *,
    densities: Sequence[float] = (0.1, 0.2, 0.5),
) -> str:
    """Digest of everything a profile depends on: contents, their names and order, densities."""
    return digest_of(
        {
            "version": VERSION,
            "base": [base.reference, base.digest],
            "models": [[model.reference, model.digest] for model in models],
            "densities": [float(density) for density in densities],
        }
    )


class _Total:
    """Sums over several tensors, and what trimming each of them leaves."""

    def __init__(self, models: int, densities: tuple[float, ...]) -> None:
        self.sums = Sums.zero(models)
        self.tensors = 0
        self._densities = densities
        self._kept = np.zeros((models, len(densities)))

    def add(self, sums: Sums, kept: Floats) -> None:
        """Take in one tensor; `kept` is squared norm by model and density."""
        self.sums.add(sums)
        self.tensors += 1
        self._kept += kept

    def section(self, name: str) -> Section:
        """The numbers a person reads."""
        sums = self.sums
        norms = np.sqrt(np.diag(sums.products))
        squares = np.diag(sums.products)[1:, None]
        kept = np.divide(self._kept, squares, out=np.zeros_like(self._kept), where=squares > 0)
        return Section(
            name=name,
            tensors=self.tensors,
            parameters=sums.elements,
            base_norm=_short(norms[0]),
            norms=_shorts(norms[1:]),
            changed=_shorts(np.diag(sums.changed) / max(1, sums.elements)),
            cosines=_cosines(sums.products),
            conflicts=tuple(
                _short(_share(sums.opposed[i, j], sums.changed[i, j]))
                for i, j in _pairs(len(norms) - 1)
            ),
            any_conflict=_short(_share(sums.any_opposed, sums.any_changed)),
            magnitudes=tuple(
                tuple(_short(_at_rank(row, _rank(q, sums.elements))) for q in QUANTILES)
                for row in sums.magnitudes
            ),
            thresholds=tuple(
                tuple(
                    _short(_at_rank(row, sums.elements - _kept_count(d, sums.elements) + 1))
                    for d in self._densities
                )
                for row in sums.magnitudes
            ),
            kept=tuple(_shorts(row) for row in kept),
        )


class _Profile:
    """The profile as it grows, tensor by tensor; layers come one after the other."""

    def __init__(self, models: int, densities: tuple[float, ...]) -> None:
        self.overall = _Total(models, densities)
        self.groups: dict[Group, _Total] = {}
        self._models = models
        self._densities = densities
        self._tensors: list[TensorNorms] = []
        self._layers: list[Section] = []
        self._layer: tuple[str, int] | None = None
        self._layer_total = _Total(models, densities)

    def add(self, name: str, sums: Sums) -> None:
        """Take in one tensor."""
        if not np.isfinite(sums.products).all():
            raise NonFiniteError(
                f"tensor {name!r} holds NaN or infinity in the base or a model",
                mend="run `mergeflow verify` to see in which; use another checkpoint of it",
            )
        kept = _kept_squares(sums, self._densities)
        stack = stack_of(name)
        if stack != self._layer:
            self._finish_layer()
            self._layer = stack
        self._layer_total.add(sums, kept)
        self.overall.add(sums, kept)
        group = group_of(name)
        self.groups.setdefault(group, _Total(self._models, self._densities)).add(sums, kept)
        norms = np.sqrt(np.diag(sums.products))
        self._tensors.append(
            TensorNorms(
                name=name,
                parameters=sums.elements,
                base_norm=_short(norms[0]),
                norms=_shorts(norms[1:]),
                cosines=_cosines(sums.products),
                any_conflict=_short(_share(sums.any_opposed, sums.any_changed)),
            )
        )

    def finished_layers(self) -> tuple[Section, ...]:
        """All layers, after the last tensor."""
        self._finish_layer()
        return tuple(self._layers)

    def bounded_tensors(self) -> tuple[tuple[TensorNorms, ...], int]:
        """At most `MAX_TENSOR_ROWS` tensors, those that changed most, and how many others."""
        left_out = max(0, len(self._tensors) - MAX_TENSOR_ROWS)
        by_change = sorted(self._tensors, key=lambda row: max(row.norms, default=0.0))
        dropped = {row.name for row in by_change[:left_out]}
        return tuple(row for row in self._tensors if row.name not in dropped), left_out

    def _finish_layer(self) -> None:
        if self._layer is not None:
            self._layers.append(self._layer_total.section(f"{self._layer[0]}.{self._layer[1]}"))
        self._layer = None
        self._layer_total = _Total(self._models, self._densities)


def _kept_squares(sums: Sums, densities: tuple[float, ...]) -> Floats:
    """Squared norm left of each task vector (rows) at each density (columns) in one tensor."""
    values = _BIN_VALUES[::-1]
    kept = np.zeros((len(sums.magnitudes), len(densities)))
    for row, histogram in enumerate(sums.magnitudes):
        counts = histogram[::-1]
        taken = np.cumsum(counts)
        squares = np.cumsum(counts * values**2)
        if squares[-1] == 0.0:
            continue
        for column, density in enumerate(densities):
            count = _kept_count(density, sums.elements)
            edge = int(np.searchsorted(taken, count))
            surplus = taken[edge] - count
            share = (squares[edge] - surplus * values[edge] ** 2) / squares[-1]
            kept[row, column] = share * sums.products[row + 1, row + 1]
    return kept


def _kept_count(density: float, elements: int) -> int:
    """How many elements TIES keeps: int(density * n), at least one."""
    return max(1, int(density * elements))


def _rank(quantile: float, elements: int) -> int:
    return max(1, int(np.ceil(quantile * elements)))


def _at_rank(histogram: Integers, rank: int) -> float:
    """The `rank`-th smallest magnitude (from 1), to within half a bin."""
    return float(_BIN_VALUES[int(np.searchsorted(np.cumsum(histogram), rank))])


def _cosines(products: Floats) -> tuple[float | None, ...]:
    norms = np.sqrt(np.diag(products))[1:]
    return tuple(
        _short(np.clip(products[i + 1, j + 1] / (norms[i] * norms[j]), -1.0, 1.0))
        if norms[i] and norms[j]
        else None
        for i, j in _pairs(len(norms))
    )


def _pairs(models: int) -> tuple[tuple[int, int], ...]:
    return tuple(combinations(range(models), 2))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _shorts(values: Floats) -> tuple[float, ...]:
    return tuple(_short(value) for value in values)


def _short(value: float) -> float:
    """Six significant digits: enough to read, and free of the last bits' noise."""
    return float(f"{value:.6g}")
