"""Measures whether a checkpoint descends from a base, on a sample of the weights.

A fine-tune stays near its base: most of its weights' direction is the base's. Two pre-training
runs share nothing: in these dimensions their weights are nearly orthogonal, so the cosine is near
0 and the difference is about sqrt(2) of the norm. Nothing real lies between, see docs/verify.md.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.runtime.threads import default_threads, ordered_map
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.dtypes import MERGEABLE
from merge_core.tensors.inputs import TensorInput, values_of

Floats: TypeAlias = "NDArray[np.float64]"
Kinship = Literal["identical", "near", "far", "unrelated"]

UNRELATED_BELOW = 0.5
"""Median cosine under which two checkpoints are of different training runs."""
FAR_BELOW = 0.9
"""Median cosine under which a common origin is doubtful."""
FAR_ABOVE = 0.6
"""Difference relative to the base's norm above which a task vector is suspiciously long."""

_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
_MAX_TENSORS = 64
_RUNS = 4
_RUN = 1 << 14
_COMPARED = 1 << 20


@dataclass(frozen=True)
class Ancestry:
    """How one checkpoint's sampled weights relate to another's."""

    tensors: int
    elements: int
    relative_norm: float
    """||θ - θ0|| / ||θ0||."""
    cosine: float
    """Of θ and θ0, over all sampled elements."""
    median_cosine: float
    """Of the sampled tensors' cosines: one retrained head or embedding does not move it."""

    @property
    def kinship(self) -> Kinship:
        """What the numbers say; `identical` means equal in the sample."""
        if self.relative_norm == 0.0:
            return "identical"
        if self.median_cosine < UNRELATED_BELOW:
            return "unrelated"
        if self.median_cosine < FAR_BELOW or self.relative_norm > FAR_ABOVE:
            return "far"
        return "near"


def measure_ancestry(base: Checkpoint, model: Checkpoint, reader: BlockReader) -> Ancestry | None:
    """Compare up to 64 tensors by up to 64 Ki elements each; None when nothing can be compared.

    The sample is a function of the tensors' names and sizes. Matrices only, where there are any:
    norms and biases start at 0 or 1 in every run and would make strangers look related. Elements
    that are not finite in one of the two are left out.
    """

    def measure(pair: tuple[TensorInput, TensorInput]) -> tuple[float, float, float, float]:
        ours, theirs = (_floats_of(source, reader) for source in pair)
        with np.errstate(over="ignore", invalid="ignore"):  # of float64 near its largest, and NaN
            parts = [_compare(ours, theirs, start, count) for start, count in _runs(pair[0])]
        base_square, model_square, product, difference = map(sum, zip(*parts, strict=True))
        return base_square, model_square, product, difference

    pairs = _sampled_tensors(base, model)
    made = any(not source.stored for pair in pairs for source in pair)
    squares = list(ordered_map(measure, pairs, default_threads(), uses_torch=made))
    if not any(square[0] for square in squares):
        return None
    base_square, model_square, product, difference = map(sum, zip(*squares, strict=True))
    return Ancestry(
        tensors=len(squares),
        elements=sum(count for entry, _ in pairs for _, count in _runs(entry)),
        relative_norm=math.sqrt(difference / base_square),
        cosine=_cosine(product, base_square, model_square),
        median_cosine=statistics.median(_cosine(p, a, b) for a, b, p, _ in squares),
    )


def same_weights(one: Checkpoint, other: Checkpoint, reader: BlockReader) -> bool:
    """Whether all tensors have the same names, types and bytes; stops at the first difference.

    A tensor that is made as it is read is never taken for one that is stored.
    """
    if one.tensors.keys() != other.tensors.keys():
        return False
    for entry, twin in zip(one.tensors.values(), other.tensors.values(), strict=True):
        if (entry.dtype, entry.shape) != (twin.dtype, twin.shape):
            return False
        if bool(entry.stored) != bool(twin.stored) or not same_values(entry, twin, reader):
            return False
    return True


def same_values(one: TensorInput, other: TensorInput, reader: BlockReader) -> bool:
    """Whether two tensors of one type and size hold the same; stops at the first difference."""
    ours, theirs = _bytes_of(one, reader), _bytes_of(other, reader)
    for start in range(0, one.numel, _COMPARED):
        count = min(_COMPARED, one.numel - start)
        if ours(start, count) != theirs(start, count):
            return False
    return True


def _sampled_tensors(base: Checkpoint, model: Checkpoint) -> list[tuple[TensorInput, TensorInput]]:
    common = [
        (entry, model.tensors[name])
        for name, entry in base.tensors.items()
        if name in model.tensors
        and entry.shape == model.tensors[name].shape
        and entry.dtype in MERGEABLE
        and model.tensors[name].dtype in MERGEABLE
        and entry.numel
    ]
    matrices = [pair for pair in common if len(pair[0].shape) >= 2]
    chosen = sorted(matrices or common, key=lambda pair: _seed(pair[0].name))
    return chosen[:_MAX_TENSORS]


def _compare(
    base: Callable[[int, int], Floats],
    model: Callable[[int, int], Floats],
    start: int,
    count: int,
) -> tuple[float, float, float, float]:
    """||x||², ||y||², <x, y> and ||y - x||² of a run of the base's and the model's elements."""
    x, y = base(start, count), model(start, count)
    known = np.isfinite(x) & np.isfinite(y)
    if not known.all():
        x, y = x[known], y[known]
    delta = y - x
    return _product(x, x), _product(y, y), _product(x, y), _product(delta, delta)


def _product(a: Floats, b: Floats) -> float:
    """Not `a @ b`, whose sum depends on how many processors there are."""
    return float((a * b).sum())


def _floats_of(source: TensorInput, reader: BlockReader) -> Callable[[int, int], Floats]:
    """Reads `start, count` elements of an input of a mergeable dtype."""
    read, dtype = _bytes_of(source, reader), source.dtype if source.stored else "F64"
    return lambda start, count: _as_floats(read(start, count), dtype)


def _bytes_of(source: TensorInput, reader: BlockReader) -> Callable[[int, int], bytes | bytearray]:
    """Reads the bytes of `start, count` elements of an input; of one that is made, as float64."""
    if source.stored:
        return partial(reader.read_bytes, source.stored)
    read = values_of(source, reader)
    return lambda start, count: read(start, count).numpy().tobytes()


def _as_floats(stored: bytes | bytearray, dtype: str) -> Floats:
    if dtype == "BF16":  # the upper half of a float32
        return (np.frombuffer(stored, "<u2").astype(np.uint32) << 16).view(np.float32).astype(float)
    return np.frombuffer(stored, _FLOATS[dtype]).astype(float)


def _runs(entry: TensorInput) -> Iterator[tuple[int, int]]:
    """Start and length of the sampled runs: all of a small tensor, else one in each quarter."""
    if entry.numel <= _RUNS * _RUN:
        yield 0, entry.numel
        return
    quarter = entry.numel // _RUNS
    seed = _seed(entry.name)
    for index in range(_RUNS):
        yield index * quarter + (seed >> (32 * index)) % (quarter - _RUN + 1), _RUN


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest(), "little")


def _cosine(product: float, base: float, model: float) -> float:
    """Two zero vectors point the same way; a zero vector and another are orthogonal."""
    if base == 0.0 and model == 0.0:
        return 1.0
    return product / math.sqrt(base * model) if base and model else 0.0
