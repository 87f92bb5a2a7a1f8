"""How far the tensors of two checkpoints lie apart, read block by block."""

from __future__ import annotations

import math
from pathlib import Path

from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.progress import Progress, ProgressEvent
from merge_core.records import Record
from merge_core.runtime.lazy_torch import torch
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.inputs import TensorInput, values_of

_BLOCK = 1 << 20


class TensorDifference(Record):
    """One tensor that is not the same in both."""

    name: str
    relative: float
    """Norm of the difference as a share of the first one's norm; of a tensor of zeros, 1."""
    largest: float
    """The largest difference of one entry."""


class TensorDifferences(Record):
    """What two checkpoints have in common, and what not."""

    compared: int
    """Tensors that both have, in one shape."""
    changed: tuple[TensorDifference, ...]
    """Those whose values differ, the largest relative difference first."""
    only_first: tuple[str, ...] = ()
    only_second: tuple[str, ...] = ()
    other_shape: tuple[str, ...] = ()
    other_dtype: tuple[str, ...] = ()
    """Compared all the same, by value."""


def tensor_differences(
    first: Path, second: Path, progress: Progress | None = None
) -> TensorDifferences:
    """Compare two checkpoint directories tensor by tensor, in float64.

    NaN and infinity differ from everything but themselves, and count as an infinite difference.

    Raises:
        CheckpointError: one of them is no sound checkpoint.
    """
    a, b = open_checkpoint(first).tensors, open_checkpoint(second).tensors
    both = [name for name in a if name in b]
    same = [name for name in both if a[name].shape == b[name].shape]
    total, done = sum(a[name].numel for name in same), 0
    changed = []
    with BlockReader() as reader:
        for name in same:
            found = _difference(reader, a[name], b[name])
            if found is not None:
                changed.append(found)
            done += a[name].numel
            if progress:
                progress(ProgressEvent("compare tensors", done, total, "values"))
    return TensorDifferences(
        compared=len(same),
        changed=tuple(sorted(changed, key=lambda each: (-each.relative, each.name))),
        only_first=tuple(sorted(a.keys() - b.keys())),
        only_second=tuple(sorted(b.keys() - a.keys())),
        other_shape=tuple(name for name in both if a[name].shape != b[name].shape),
        other_dtype=tuple(name for name in same if a[name].dtype != b[name].dtype),
    )


def _difference(
    reader: BlockReader, left: TensorInput, right: TensorInput
) -> TensorDifference | None:
    apart = norm = largest = 0.0
    read_left, read_right = (values_of(source, reader) for source in (left, right))
    for start in range(0, left.numel, _BLOCK):
        count = min(_BLOCK, left.numel - start)
        one = read_left(start, count).to(torch.float64)
        other = read_right(start, count).to(torch.float64)
        gap = torch.where(one == other, 0.0, (one - other).abs())
        gap = torch.where(one.isnan() & other.isnan(), 0.0, gap)
        gap = torch.where(gap.isnan(), math.inf, gap)
        largest = max(largest, float(gap.max()))
        apart += float((gap * gap).sum())
        norm += float(torch.where(one.isfinite(), one * one, 0.0).sum())
    if largest == 0.0:
        return None
    relative = math.sqrt(apart / norm) if norm else 1.0
    return TensorDifference(name=left.name, relative=relative, largest=largest)
