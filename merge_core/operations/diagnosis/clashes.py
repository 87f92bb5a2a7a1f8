"""How much of the task vectors meets an opposite sign, by magnitude and not only by count.

Half of all entries of unrelated task vectors conflict, and most of these entries are small. What a
sum loses is told by their magnitudes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from merge_core.operations.common_tensors import Row, nbytes, runs_of
from merge_core.operations.profile_sums import Floats
from merge_core.progress import Throttle
from merge_core.records import Record
from merge_core.runtime.lazy_torch import torch
from merge_core.runtime.threads import ordered_map
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.inputs import values_of
from merge_core.tensors.names import stack_of

_BLOCK = 1 << 18


class Clashes(Record):
    """Shares of magnitude, of all of the model or of one layer. Pairs are in the profile's order.

    Every magnitude is |τ|, the size of one entry of a task vector, and shares are of their sums.
    """

    name: str
    opposed: tuple[float, ...]
    """For each pair: of both task vectors' magnitude, the share in entries of opposite signs."""
    cancelled: tuple[float, ...]
    """For each pair: the share of both magnitudes that their sum does not have."""
    outvoted: float
    """Of all task vectors' magnitude, the share on the side that TIES' election by their plain sum
    would drop."""


@dataclass
class _Sums:
    opposed: Floats
    """[pairs]"""
    cancelled: Floats
    magnitudes: Floats
    """[models]"""
    outvoted: float = 0.0

    @classmethod
    def zero(cls, models: int) -> _Sums:
        pairs = models * (models - 1) // 2
        return cls(np.zeros(pairs), np.zeros(pairs), np.zeros(models))

    def add(self, other: _Sums) -> None:
        self.opposed += other.opposed
        self.cancelled += other.cancelled
        self.magnitudes += other.magnitudes
        self.outvoted += other.outvoted

    def clashes(self, name: str) -> Clashes:
        pairs = combinations(range(len(self.magnitudes)), 2)
        both = np.array([self.magnitudes[i] + self.magnitudes[j] for i, j in pairs])
        return Clashes(
            name=name,
            opposed=_shares(self.opposed, both),
            cancelled=_shares(self.cancelled, both),
            outvoted=_share(self.outvoted, float(self.magnitudes.sum())),
        )


def measure_clashes(
    rows: Sequence[Row], threads: int, throttle: Throttle
) -> tuple[Clashes, tuple[Clashes, ...]]:
    """Of the whole model, and of each layer in its order, in one pass in constant memory.

    Args:
        rows: each tensor of the base and the models, layer by layer (`common_tensors`).
    """
    models = len(rows[0]) - 1
    overall, layers = _Sums.zero(models), dict[str, _Sums]()
    with BlockReader() as reader:

        def measure(run: tuple[int, int, int]) -> tuple[int, int, _Sums]:
            index, first, last = run
            return index, last - first, _sum_run(rows[index], reader, first, last)

        with closing(ordered_map(measure, runs_of(rows), threads)) as runs:
            for index, elements, sums in runs:
                row = rows[index]
                overall.add(sums)
                stack = stack_of(row[0].name)
                if stack:
                    layers.setdefault(f"{stack[0]}.{stack[1]}", _Sums.zero(models)).add(sums)
                throttle.advance(nbytes(row) * elements // row[0].numel)
    return overall.clashes("all"), tuple(sums.clashes(name) for name, sums in layers.items())


def _sum_run(row: Row, reader: BlockReader, first: int, last: int) -> _Sums:
    sums = _Sums.zero(len(row) - 1)
    work = torch.float64 if row[0].dtype == "F64" else torch.float32
    deltas = torch.empty(len(row) - 1, min(_BLOCK, last - first), dtype=work)
    read_base, *read_models = (values_of(source, reader) for source in row)
    for start in range(first, last, _BLOCK):
        count = min(_BLOCK, last - start)
        origin = read_base(start, count).to(work, copy=True)
        block = deltas[:, :count]
        for delta, read in zip(block, read_models, strict=True):
            delta[:] = read(start, count)
            delta -= origin
        _add(sums, block)
    return sums


def _add(sums: _Sums, deltas: torch.Tensor) -> None:
    """Differences are in the work's precision, and everything is added up in float64."""
    sizes, signs = deltas.abs(), deltas.sign()
    magnitudes = [_total(size) for size in sizes]
    sums.magnitudes += magnitudes
    for pair, (i, j) in enumerate(combinations(range(len(deltas)), 2)):
        opposed = (signs[i] * signs[j]).clamp_(max=0).neg_()
        sums.opposed[pair] += _total((sizes[i] + sizes[j]).mul_(opposed))
        # Where signs are opposed, a sum loses the smaller of the two twice.
        smaller = _total(torch.minimum(sizes[i], sizes[j]).mul_(opposed))
        sums.cancelled[pair] += 2.0 * smaller
        if len(deltas) == 2:
            sums.outvoted += smaller
    if len(deltas) > 2:
        elected = torch.where(deltas.sum(dim=0) >= 0, 1.0, -1.0)
        against = (signs * elected).clamp_(max=0).neg_()
        sums.outvoted += _total(sizes.mul_(against))


def _total(values: torch.Tensor) -> float:
    return float(values.sum(dtype=torch.float64))


def _shares(parts: Floats, wholes: Floats) -> tuple[float, ...]:
    return tuple(_share(float(p), float(w)) for p, w in zip(parts, wholes, strict=True))


def _share(part: float, whole: float) -> float:
    return float(f"{part / whole:.6g}") if whole else 0.0
