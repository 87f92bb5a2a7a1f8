"""Buffers that code computes and that some versions of it saved: to lack them is no difference.

Rotary frequencies, position indices and causal masks have no mean, and are nobody's work. The
result has those of the donor, or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.tensors.inputs import TensorInput
from merge_core.tensors.kinds import is_derived_buffer
from merge_core.tensors.names import kind_of, stack_of


def with_buffers_of(checkpoints: Mapping[str, Checkpoint], donor: str) -> dict[str, Checkpoint]:
    """Checkpoints with the derived buffers of the donor, where a model has them otherwise.

    A model of fewer layers gets none for layers that it lacks, and one of more layers keeps its
    own, if the donor has any of the kind.
    """
    theirs = {
        name: it
        for name, it in checkpoints[donor].tensors.items()
        if is_derived_buffer(name, it.shape)
    }
    kinds = {kind_of(name) for name in theirs}
    return {
        key: each if key == donor else _with(each, theirs, kinds)
        for key, each in checkpoints.items()
    }


def _with(checkpoint: Checkpoint, theirs: Mapping[str, TensorInput], kinds: set[str]) -> Checkpoint:
    ours = [name for name, it in checkpoint.tensors.items() if is_derived_buffer(name, it.shape)]
    if ours == list(theirs):
        return checkpoint
    surplus = {name for name in ours if kind_of(name) not in kinds}
    tensors = {name: it for name, it in checkpoint.tensors.items() if name not in surplus}
    layers = {stack_of(name) for name in tensors}
    tensors |= {
        name: it
        for name, it in theirs.items()
        if name not in tensors and (stack_of(name) is None or stack_of(name) in layers)
    }
    return replace(checkpoint, tensors=MappingProxyType(tensors))
