"""A few thousand entries of the task vectors, drawn evenly over the whole model.

The same checkpoints give the same entries: the model's entries are cut into equal strata, and one
of each is drawn by `merge_core.methods.parts.random_bits`, which has no state.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from merge_core.methods.parts.random_bits import random_integers, random_keys
from merge_core.operations.common_tensors import Row
from merge_core.records import Record
from merge_core.runtime.lazy_torch import torch
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.inputs import TensorInput, values_of

ENTRIES = 2048
_WHOLE = 1 << 18
"""Elements of a tensor that is read in one piece; of a larger one, entry by entry."""


class Sample(Record):
    """Entries of base and models side by side, as float32 has them, in the model's order."""

    of: int
    """How many entries the model has."""
    names: tuple[str, ...]
    """The tensors that an entry was drawn from."""
    tensors: tuple[int, ...]
    """For each entry its tensor, by place in `names`."""
    places: tuple[int, ...]
    """For each entry its place in the flattened tensor."""
    base: tuple[float, ...]
    models: tuple[tuple[float, ...], ...]
    """For each model its values; a task vector is their difference from the base's."""


def draw_sample(rows: Sequence[Row], entries: int = ENTRIES) -> Sample:
    """One entry of each of `entries` equal strata; all of a smaller model.

    Args:
        rows: each tensor of the base and the models (`common_tensors`).
    """
    ends = list(accumulate(row[0].numel for row in rows))
    total = ends[-1]
    drawn = _drawn(total, min(entries, total))
    by_tensor: dict[int, list[int]] = {}
    for position in drawn:
        index = bisect_right(ends, position)
        by_tensor.setdefault(index, []).append(position - ends[index] + rows[index][0].numel)
    values: list[list[float]] = [[] for _ in rows[0]]
    tensors, places = [], []
    with BlockReader() as reader:
        for number, (index, wanted) in enumerate(by_tensor.items()):
            tensors += [number] * len(wanted)
            places += wanted
            for column, source in zip(values, rows[index], strict=True):
                column += _values(source, reader, wanted)
    base, *models = map(tuple, values)
    return Sample(
        of=total,
        names=tuple(rows[index][0].name for index in by_tensor),
        tensors=tuple(tensors),
        places=tuple(places),
        base=base,
        models=tuple(models),
    )


def _values(source: TensorInput, reader: BlockReader, places: Sequence[int]) -> list[float]:
    read = values_of(source, reader)
    if source.numel <= _WHOLE:
        found = read(0, source.numel).to(torch.float32)[torch.tensor(places)]
    else:
        found = torch.cat([read(place, 1).to(torch.float32, copy=True) for place in places])
    return [float(value) for value in found]


def _drawn(total: int, entries: int) -> list[int]:
    """One position in each of `entries` strata of `total` positions."""
    key = random_keys("diagnosis")("sample")
    randoms = random_integers(key, 0, entries, torch.device("cpu")).tolist()
    found = []
    for stratum, random in enumerate(randoms):
        first, last = stratum * total // entries, (stratum + 1) * total // entries
        found.append(first + random % (last - first))
    return found
