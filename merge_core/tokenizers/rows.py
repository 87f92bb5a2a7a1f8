"""A matrix of one row for each token, gathered from the rows of others while it is read.

Row i is the mean of rows of some sources: of one (the model's own row, moved), of several, or of
none (zeros). Stretches of consecutive rows are read at once, so an embedding that only grew at its
end costs what a plain read costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from merge_core.reductions.sums import divided
from merge_core.runtime.lazy_torch import torch
from merge_core.tensors.inputs import Feed, FeedContext, MadeTensor, TensorInput
from merge_core.tensors.safetensors_header import TensorEntry

Rows = NDArray[np.int64]
ABSENT = -1
_SUM_ELEMENTS = 1 << 16
"""Elements that are added up at once for a mean over rows, whatever blocks are asked for."""


@dataclass(frozen=True, eq=False)
class RowMap:
    """Which rows of the sources each row is the mean of, as runs of consecutive rows."""

    starts: Rows
    """First row of each run, and after the last run the number of rows."""
    firsts: Rows
    """For each run and source: the source's row for the run's first row, or `ABSENT`."""
    padding: int = 0
    """Further rows at the end, each the mean of all rows before them."""

    @property
    def named(self) -> int:
        """Number of rows without the padding."""
        return int(self.starts[-1])

    @property
    def total(self) -> int:
        """Number of rows."""
        return self.named + self.padding

    def runs(self, first: int, last: int) -> list[tuple[int, int, list[int]]]:
        """The runs within rows `first : last`: each one's first row, its end, and its sources."""
        low = int(np.searchsorted(self.starts, first, side="right")) - 1
        high = int(np.searchsorted(self.starts, last, side="left"))
        starts = self.starts[low : high + 1].tolist()
        found = []
        for begin, end, firsts in zip(
            starts, starts[1:], self.firsts[low:high].tolist(), strict=False
        ):
            skipped = max(first - begin, 0)
            moved = [row if row == ABSENT else row + skipped for row in firsts]
            found.append((begin + skipped, min(end, last), moved))
        return found


def row_map(parts: Rows, padding: int = 0) -> RowMap:
    """The map whose row i is the mean of row `parts[i, s]` of each source s where it is not -1."""
    absent = parts == ABSENT
    follows = np.where(absent[1:], absent[:-1], ~absent[:-1] & (parts[1:] == parts[:-1] + 1))
    breaks = np.flatnonzero(~follows.all(axis=1)) + 1
    inner = np.concatenate(([0], breaks)) if len(parts) else np.zeros(0, np.int64)
    return RowMap(np.append(inner, len(parts)).astype(np.int64), parts[inner], padding)


@dataclass(frozen=True, eq=False)
class GatheredRows(MadeTensor):
    """A tensor whose rows are means of rows of other tensors with the same further extents."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    sources: tuple[TensorInput, ...]
    rows: RowMap

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """Every tensor on disk that rows are taken from."""
        return tuple(entry for source in self.sources for entry in source.entries)

    def open(self, context: FeedContext) -> Feed:
        """Its values, for one worker."""
        feeds = [source.open(context) for source in self.sources]
        return _GatheredFeed(self.rows, feeds, math.prod(self.shape[1:]), context.device)


class _GatheredFeed:
    def __init__(
        self, rows: RowMap, feeds: Sequence[Feed], width: int, device: torch.device
    ) -> None:
        self._rows = rows
        self._feeds = feeds
        self._width = width
        self._device = device
        self._mean: torch.Tensor | None = None

    def read(self, start: int, count: int) -> torch.Tensor:
        end, named = start + count, self._rows.named * self._width
        pieces = []
        if start < min(end, named):
            pieces += self._named(start, min(end, named))
        if end > named:
            pieces.append(self._padding(max(start, named), end))
        if not pieces:
            return torch.empty(0, dtype=torch.float64, device=self._device)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _named(self, start: int, end: int) -> list[torch.Tensor]:
        """Elements `start : end`, none of them padding; one plain read where one run has them."""
        width = self._width
        runs = self._rows.runs(start // width, -(-end // width))
        pieces = []
        for first, last, sources in runs:
            low, high = max(start, first * width), min(end, last * width)
            values = self._run(low - first * width, high - low, sources)
            pieces.append(values if len(runs) == 1 else values.clone())
        return pieces

    def _run(self, skipped: int, count: int, sources: Sequence[int]) -> torch.Tensor:
        used = [
            (feed, row * self._width + skipped)
            for feed, row in zip(self._feeds, sources, strict=True)
            if row != ABSENT
        ]
        if not used:
            return torch.zeros(count, dtype=torch.float64, device=self._device)
        if len(used) == 1:
            return used[0][0].read(used[0][1], count)
        total = torch.zeros(count, dtype=torch.float64, device=self._device)
        for feed, position in used:
            total += feed.read(position, count)
        return divided(total, len(used))

    def _padding(self, start: int, end: int) -> torch.Tensor:
        if self._mean is None:
            self._mean = self._mean_row()
        first, last = start // self._width, -(-end // self._width)
        rows = self._mean.repeat(last - first)
        return rows[start - first * self._width : end - first * self._width]

    def _mean_row(self) -> torch.Tensor:
        step, named = max(1, _SUM_ELEMENTS // self._width), self._rows.named
        total = torch.zeros(self._width, dtype=torch.float64, device=self._device)
        for first in range(0, named, step):
            last = min(first + step, named)
            block = self.read(first * self._width, (last - first) * self._width)
            total += block.view(-1, self._width).sum(0)
        return divided(total, named)
