"""What is left of a base's weight after PiSSA or OLoRA has taken an adapter's start out of it.

Both start an adapter with a product B0 @ A0 that is taken out of W, and train W - s * B0 @ A0
beside B @ A. PEFT repeats that when it loads such an adapter onto its base, so the weight that it
defines is W - s * B0 @ A0 + s * B @ A. What is taken out is the same however it is computed:

* PiSSA: s * B0 @ A0 is the nearest matrix of rank r to W (its r largest singular directions).
* OLoRA: B0 is the first r columns of Q in W = Q @ R, and A0 the first r rows of R; so B0 @ A0 is W
  projected on the space that its own first r columns span, and s of it is taken out.

Like PEFT, what is left is rounded to the dtype in which the base is stored: it is what was trained.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from merge_core.checkpoints.adapters.tensors import OfOneTensor
from merge_core.checkpoints.adapters.variants import SAVED_AGAIN, Start
from merge_core.errors import CompatibilityError
from merge_core.files.digests import fingerprint
from merge_core.runtime.lazy_torch import torch
from merge_core.runtime.torch_threads import OneThreadEach
from merge_core.tensors.dtypes import torch_dtype
from merge_core.tensors.inputs import Feed, FeedContext
from merge_core.tensors.rounding import round_once

Factors: TypeAlias = "tuple[torch.Tensor, torch.Tensor]"
"""(rows, r) and (r, columns), float64, whose product is taken out."""

_ROWS = 512
"""Of a block in which a weight is read; sums over rows depend on it in their last bits."""
_KEPT = 8
"""Factors that stay in memory: a weight is read by several workers, and in several passes."""
_SINGLE = 2.0**-23
"""PEFT computes in float32: what rounding there decides, no two machines do alike."""
_MOST_DOUBT = 0.1
"""Radians by which rounding may turn the space that is taken out."""


@dataclass(frozen=True)
class ResidualTensor(OfOneTensor):
    """A weight of the base without what an adapter's start took out of it."""

    start: Start
    rank: int
    scaling: float
    adapter: Path
    """For messages."""

    def open(self, context: FeedContext) -> Feed:
        """Its values; what is taken out is found now, in one or two passes over the weight.

        Raises:
            CompatibilityError: rounding would decide what was taken out.
        """
        return _ResidualFeed(self, context)


class _ResidualFeed:
    def __init__(self, tensor: ResidualTensor, context: FeedContext) -> None:
        self._origin = tensor.origin.open(context)
        self._columns = tensor.shape[1]
        self._dtype = torch_dtype(tensor.dtype)
        left, right = _MEMORY.of(tensor, context)
        self._left, self._right = left.to(context.device), right.to(context.device)

    def read(self, start: int, count: int) -> torch.Tensor:
        if not count:
            return self._left.new_empty(0)
        first, last = start // self._columns, (start + count - 1) // self._columns
        # Whole rows, and always as many: a product may depend on its shape in the last bit.
        parts = []
        for row in range(first - first % _ROWS, last + 1, _ROWS):
            rows = min(_ROWS, len(self._left) - row)
            factor = self._left.new_zeros(_ROWS, self._left.shape[1])
            factor[:rows] = self._left[row : row + rows]
            taken = (factor @ self._right)[:rows]
            values = self._origin.read(row * self._columns, rows * self._columns)
            left = round_once(values.view(rows, -1) - taken, self._dtype)
            parts.append(left.to(torch.float64).view(-1))
        begin = start - (first - first % _ROWS) * self._columns
        return torch.cat(parts)[begin : begin + count]


class _Memory:
    """The factors that were found last, for everybody who reads the same weight."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[object, tuple[threading.Lock, list[Factors]]] = OrderedDict()

    def of(self, tensor: ResidualTensor, context: FeedContext) -> Factors:
        """Found before, by another worker just now, or here."""
        files = tuple(fingerprint(entry.path) for entry in tensor.entries)
        key = (files, tensor.origin, tensor.start, tensor.rank, tensor.scaling)
        with self._lock:
            place, found = self._found.setdefault(key, (threading.Lock(), []))
            self._found.move_to_end(key)
            while len(self._found) > _KEPT:
                self._found.popitem(last=False)
        with place:
            if not found:
                find = _largest if tensor.start == "pissa" else _first_columns
                with OneThreadEach() as one_thread:
                    one_thread.use_one()  # sums in one order, whoever asks
                    found.append(find(tensor, context))
            return found[0]


_MEMORY = _Memory()


def _blocks(tensor: ResidualTensor, context: FeedContext) -> Iterator[tuple[int, torch.Tensor]]:
    """The weight by blocks of rows, each with the number of its first row: float64, on the CPU.

    Raises:
        NonFiniteError: it holds NaN or infinity.
    """
    feed = tensor.origin.open(context)
    rows, columns = tensor.shape
    for first in range(0, rows, _ROWS):
        count = min(_ROWS, rows - first)
        yield first, feed.read(first * columns, count * columns).view(count, columns).cpu()
    context.settle()


def _largest(tensor: ResidualTensor, context: FeedContext) -> Factors:
    """PiSSA's: by the eigenvectors of the smaller Gram matrix, of which only r are wanted.

    In float64 it holds the large singular values to far better than float32 does the weight.
    """
    rows, columns = tensor.shape
    small, rank = min(rows, columns), tensor.rank
    if columns <= rows:
        gram = torch.zeros(columns, columns, dtype=torch.float64)
        for _, block in _blocks(tensor, context):
            gram += block.T @ block
    else:
        whole = torch.cat([block.clone() for _, block in _blocks(tensor, context)])
        gram = whole @ whole.T
    values, vectors = torch.linalg.eigh(gram)
    del gram
    lengths = values.clamp_min(0).sqrt().flip(0).tolist()
    if rank < small:
        largest, kept, next_one = lengths[0], lengths[rank - 1], lengths[rank]
        is_seen = kept > _SINGLE * largest  # what is smaller is nothing, wherever it points
        if is_seen and _SINGLE * largest > _MOST_DOUBT * (kept - next_one):
            raise _undecided(
                tensor, f"the singular values {rank} and {rank + 1} of this weight are equal"
            )
    chosen = vectors[:, -rank:].contiguous()
    if columns > rows:
        return chosen, chosen.T @ whole
    left = torch.empty(rows, chosen.shape[1], dtype=torch.float64)
    for first, block in _blocks(tensor, context):
        left[first : first + len(block)] = block @ chosen
    return left, chosen.T.contiguous()


def _first_columns(tensor: ResidualTensor, context: FeedContext) -> Factors:
    """OLoRA's: QR leaves the first r columns of Q to the first r columns of the weight alone."""
    rank = tensor.rank
    columns = torch.cat([block[:, :rank].clone() for _, block in _blocks(tensor, context)])
    basis, triangle = torch.linalg.qr(columns)
    sizes = triangle.diagonal().abs()
    if _SINGLE * float(columns.norm(dim=0).max()) > _MOST_DOUBT * float(sizes.min()):
        raise _undecided(tensor, f"the first {rank} columns of this weight depend on each other")
    right = torch.zeros(rank, tensor.shape[1], dtype=torch.float64)
    for first, block in _blocks(tensor, context):
        right += basis[first : first + len(block)].T @ block
    return basis.contiguous(), tensor.scaling * right


def _undecided(tensor: ResidualTensor, why: str) -> CompatibilityError:
    return CompatibilityError(
        f"{tensor.name}: what {tensor.start} took out of it cannot be found again, since {why}",
        where=str(tensor.adapter),
        mend=SAVED_AGAIN,
    )
