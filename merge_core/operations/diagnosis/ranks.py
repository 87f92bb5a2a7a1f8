"""In how many directions a fine-tune went: the effective rank of each matrix of a task vector.

The effective rank is exp(H), with H the entropy of the singular values as shares of their sum (Roy
and Vetterli 2007, The effective rank: a measure of effective dimensionality). A LoRA of rank 8 has
at most 8 of them; a matrix of noise has nearly as many as it has rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np

from merge_core.operations.common_tensors import Row, nbytes
from merge_core.operations.profile_sums import Floats
from merge_core.progress import Throttle
from merge_core.records import Record
from merge_core.runtime.lazy_torch import torch
from merge_core.runtime.threads import ordered_map
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.inputs import values_of
from merge_core.tensors.names import group_of, layer_counts, stack_of

MOST_ROWS = 512
"""Of a matrix whose shorter side is longer, this many rows stand for it, evenly spaced."""
MOST_LAYERS = 12
"""Of each stack of layers, evenly spaced, the first and the last among them."""
_CHUNK = 1 << 19
"""Elements in memory at a time, for each thread."""


class MatrixRanks(Record):
    """The effective ranks of one matrix of each task vector."""

    name: str
    part: str
    """Its layer, or the kind of tensor that it is outside of the layers."""
    possible: int
    """The largest rank that there can be: the shorter side of what was looked at."""
    of_rows: int
    """How many rows the matrix has."""
    rows: int
    """How many were looked at."""
    ranks: tuple[float | None, ...]
    """For each model; None where it did not change the matrix."""


class PartRanks(Record):
    """One layer, or what lies outside of the layers: the mean over its matrices."""

    name: str
    shares: tuple[float | None, ...]
    """For each model: effective rank as a share of the possible one."""


def measure_ranks(rows: Sequence[Row], threads: int, throttle: Throttle) -> tuple[MatrixRanks, ...]:
    """The effective ranks of the matrices of some layers, and of those outside of the layers.

    A matrix is read once. Memory is at most 512 rows by 512, and a chunk of values, a thread.
    """
    chosen = _chosen(rows)
    with BlockReader() as reader:

        def measure(row: Row) -> MatrixRanks:
            return _ranks_of(row, reader)

        found = []
        with closing(ordered_map(measure, chosen, threads)) as measured:
            for row, ranks in zip(chosen, measured, strict=True):
                found.append(ranks)
                throttle.advance(nbytes(row))
    return tuple(found)


def bytes_to_read(rows: Sequence[Row]) -> int:
    """Bytes of the matrices that are looked at."""
    return sum(map(nbytes, _chosen(rows)))


def parts_of(matrices: Sequence[MatrixRanks]) -> tuple[PartRanks, ...]:
    """The mean share of each part, in the matrices' order."""
    parts: dict[str, list[MatrixRanks]] = {}
    for matrix in matrices:
        parts.setdefault(matrix.part, []).append(matrix)
    found = []
    for name, inside in parts.items():
        columns = zip(*(matrix.ranks for matrix in inside), strict=True)
        shares = []
        for column in columns:
            known = [
                rank / matrix.possible
                for rank, matrix in zip(column, inside, strict=True)
                if rank is not None
            ]
            shares.append(_short(sum(known) / len(known)) if known else None)
        found.append(PartRanks(name=name, shares=tuple(shares)))
    return tuple(found)


def effective_rank(gram: Floats) -> float | None:
    """exp of the entropy of the singular values of X, of which `gram` is X X^T or X^T X."""
    squares = np.linalg.eigvalsh(gram)
    largest = float(squares[-1])
    if largest <= 0.0:
        return None
    # Below this an eigenvalue is rounding of the largest one.
    squares = squares[squares > largest * len(squares) * np.finfo(np.float64).eps]
    values = np.sqrt(squares)
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _chosen(rows: Sequence[Row]) -> list[Row]:
    counts = layer_counts(row[0].name for row in rows)
    layers = {stack: _evenly(count, MOST_LAYERS) for stack, count in counts.items()}
    return [
        row
        for row in rows
        if len(row[0].shape) == 2
        and min(row[0].shape) > 1
        and ((stack := stack_of(row[0].name)) is None or stack[1] in layers[stack[0]])
    ]


def _evenly(count: int, most: int) -> list[int]:
    if count <= most:
        return list(range(count))
    return [place * (count - 1) // (most - 1) for place in range(most)]


def _ranks_of(row: Row, reader: BlockReader) -> MatrixRanks:
    height, width = row[0].shape
    of_columns = width <= MOST_ROWS < height
    rows = list(range(height)) if of_columns else _evenly(height, MOST_ROWS)
    side = width if of_columns else len(rows)
    grams = np.zeros((len(row) - 1, side, side))
    reads = [values_of(source, reader) for source in row]
    if of_columns:
        step = max(1, _CHUNK // width)
        for first in range(0, height, step):
            count = min(step, height - first) * width
            origin, *values = (_read(read, first * width, count) for read in reads)
            for gram, each in zip(grams, values, strict=True):
                delta = (each - origin).reshape(-1, width)
                gram += delta.T @ delta
    else:
        step = max(1, _CHUNK // len(rows))
        for first in range(0, width, step):
            count = min(step, width - first)
            origin, *values = (
                np.stack([_read(read, at * width + first, count) for at in rows]) for read in reads
            )
            for gram, each in zip(grams, values, strict=True):
                delta = each - origin
                gram += delta @ delta.T
    ranks = [effective_rank(gram) for gram in grams]
    stack = stack_of(row[0].name)
    return MatrixRanks(
        name=row[0].name,
        part=f"{stack[0]}.{stack[1]}" if stack else group_of(row[0].name),
        possible=min(len(rows), width),
        of_rows=height,
        rows=len(rows),
        ranks=tuple(None if rank is None else _short(rank) for rank in ranks),
    )


def _read(read: Callable[[int, int], torch.Tensor], start: int, count: int) -> Floats:
    values = read(start, count)
    return np.asarray(values.to(torch.float64, copy=True).numpy())


def _short(value: float) -> float:
    """Five significant digits: what is left of them differs between processors."""
    return float(f"{value:.5g}")
