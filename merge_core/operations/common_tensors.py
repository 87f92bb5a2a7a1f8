"""The float tensors that a base and its models have in common: what task vectors are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.checkpoints.sources import open_source
from merge_core.checkpoints.tensor_names import named_alike
from merge_core.errors import CompatibilityError
from merge_core.records import SourceCheckpoint
from merge_core.tensors.dtypes import MERGEABLE
from merge_core.tensors.inputs import TensorInput
from merge_core.tensors.names import stack_of

Row = tuple[TensorInput, ...]
"""One tensor: of the base first, then of each model."""
_RUN = 1 << 22
"""Elements that are read in one piece."""


def common_tensors(
    base: SourceCheckpoint, models: Sequence[SourceCheckpoint]
) -> tuple[list[Row], list[str]]:
    """Entries of each float tensor that all have, the base's first, layer by layer; and the names
    of the others.

    Raises:
        CompatibilityError: there is none.
        CheckpointError: an input is damaged.
    """
    opened = dict(enumerate(map(open_source, (base, *models))))
    rows, skipped = _common_tensors(list(named_alike(opened, 0).values()))
    if not rows:
        raise CompatibilityError(
            "it has no float tensor in common with the models",
            where=base.reference,
            mend="run `mergeflow verify` to see how the checkpoints differ",
        )
    return rows, skipped


def _common_tensors(checkpoints: Sequence[Checkpoint]) -> tuple[list[Row], list[str]]:
    rows, skipped = [], []
    for name in sorted(set().union(*(checkpoint.tensors for checkpoint in checkpoints))):
        entries = [c.tensors[name] for c in checkpoints if name in c.tensors]
        same_shape = len({entry.shape for entry in entries}) == 1
        floats = all(entry.dtype in MERGEABLE for entry in entries)
        if len(entries) == len(checkpoints) and same_shape and floats and entries[0].numel:
            rows.append(tuple(entries))
        else:
            skipped.append(name)
    rows.sort(key=lambda row: (stack_of(row[0].name) or ("", -1), row[0].name))
    return rows, skipped


def nbytes(row: Row) -> int:
    """What reading one tensor of all checkpoints takes from disk."""
    return sum(entry.nbytes for source in row for entry in source.entries)


def runs_of(rows: Sequence[Row]) -> Iterator[tuple[int, int, int]]:
    """The pieces that are read: of which row, from which element, to which."""
    for index, row in enumerate(rows):
        for first in range(0, row[0].numel, _RUN):
            yield index, first, min(row[0].numel, first + _RUN)
