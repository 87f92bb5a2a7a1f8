"""Tensors made while they stream: a weight with an adapter's low-rank product added to it.

The product is made in tiles of whole rows, always of the same size (the last is padded): a matrix
product may depend in its last bit on the shape it is asked for, and the bits of a weight must not
depend on the block in which it is read.
"""

from __future__ import annotations

from dataclasses import dataclass

from merge_core.checkpoints.adapters.fitting import Fit
from merge_core.errors import NonFiniteError
from merge_core.runtime.lazy_torch import torch
from merge_core.tensors.inputs import Feed, FeedContext, MadeTensor, TensorInput
from merge_core.tensors.safetensors_header import TensorEntry

_TILE = 1 << 18
"""Elements of a tile, about; it is made of whole rows."""
_FEWEST_ROWS = 8


@dataclass(frozen=True)
class OfOneTensor(MadeTensor):
    """A tensor that is made from another of its shape."""

    name: str
    dtype: str
    origin: TensorInput

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the other tensor."""
        return self.origin.shape

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """Those of the other tensor."""
        return self.origin.entries


@dataclass(frozen=True)
class AdaptedTensor(OfOneTensor):
    """origin + scaling * B @ A, in float64: no rounding but the result's own.

    With a magnitude m (DoRA) each row is then brought to norm m: row * m / ||row||.
    """

    fit: Fit

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """The weight and the adapter's factors."""
        pair = self.fit.pair
        magnitude = (pair.magnitude,) if pair.magnitude else ()
        return (*self.origin.entries, pair.a, pair.b, *magnitude)

    def open(self, context: FeedContext) -> Feed:
        """Its values; the factors are held in memory meanwhile."""
        return _AdaptedFeed(self, context)


@dataclass(frozen=True)
class ReplacedTensor(OfOneTensor):
    """A tensor saved in full by an adapter, stored as the one whose place it takes would be."""

    def open(self, context: FeedContext) -> Feed:
        """Its values."""
        return self.origin.open(context)


def read_factors(fit: Fit, context: FeedContext) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, r) and (r, columns) whose product times the scaling is added: float64.

    Raises:
        NonFiniteError: a factor holds NaN or infinity.
    """
    pair = fit.pair
    a = pair.a.open(context).read(0, pair.a.numel).clone().view(pair.a.shape)
    b = pair.b.open(context).read(0, pair.b.numel).clone().view(pair.b.shape)
    return (a.T.contiguous(), b.T.contiguous()) if fit.transposed or pair.embedding else (b, a)


class _AdaptedFeed:
    def __init__(self, tensor: AdaptedTensor, context: FeedContext) -> None:
        self._name = tensor.name
        self._context = context
        self._origin = tensor.origin.open(context)
        self._rows, self._columns = tensor.shape
        self._left, self._right = read_factors(tensor.fit, context)
        self._scaling = tensor.fit.pair.scaling
        magnitude = tensor.fit.pair.magnitude
        self._magnitude = (
            magnitude.open(context).read(0, magnitude.numel).clone() if magnitude else None
        )
        self._height = min(max(1, self._rows), max(_FEWEST_ROWS, _TILE // max(1, self._columns)))
        self._factor = self._left.new_zeros(self._height, self._left.shape[1])
        self._tile = self._left.new_zeros(self._height, self._columns)
        self._tile_index = -1

    def read(self, start: int, count: int) -> torch.Tensor:
        if not count:
            return self._tile.new_empty(0)
        length = self._height * self._columns
        result = self._tile.new_empty(count)
        for index in range(start // length, (start + count - 1) // length + 1):
            first, last = max(start, index * length), min(start + count, (index + 1) * length)
            tile = self._tile_of(index).view(-1)[first - index * length : last - index * length]
            result[first - start : last - start] = tile
        return result

    def _tile_of(self, index: int) -> torch.Tensor:
        """One tile of the result; the last one made is kept, for the block that goes on in it."""
        if index == self._tile_index:
            return self._tile
        first = index * self._height
        rows = min(self._height, self._rows - first)
        self._factor.zero_()
        self._factor[:rows] = self._left[first : first + rows]
        torch.mm(self._factor, self._right, out=self._tile)
        self._tile *= self._scaling
        origin = self._origin.read(first * self._columns, rows * self._columns)
        self._tile[:rows] += origin.view(rows, self._columns)
        if self._magnitude is not None:
            self._renorm(first, rows)
        self._tile_index = index
        return self._tile

    def _renorm(self, first: int, rows: int) -> None:
        assert self._magnitude is not None
        norms = self._tile.square().sum(1, keepdim=True).sqrt()[:rows]
        if bool((norms == 0).any()):
            self._context.settle()  # of what is read, NaN and infinity are told first
            raise NonFiniteError(
                f"the DoRA of {self._name} has a row of zeros, which has no direction",
                mend="the adapter or its base is broken: use another checkpoint of it",
            )
        self._tile[:rows] *= self._magnitude[first : first + rows, None] / norms
