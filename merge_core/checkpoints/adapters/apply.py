"""A checkpoint with an adapter applied, which exists only while it is read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from types import MappingProxyType

from merge_core.checkpoints.adapters.files import Adapter
from merge_core.checkpoints.adapters.fitting import Fit, fit, is_vocabulary
from merge_core.checkpoints.adapters.residual import ResidualTensor
from merge_core.checkpoints.adapters.tensors import AdaptedTensor, ReplacedTensor
from merge_core.checkpoints.adapters.variants import Start
from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.errors import CompatibilityError
from merge_core.tensors.dtypes import name_of
from merge_core.tensors.inputs import TensorInput
from merge_core.tensors.names import group_of

_TAKEN_OUT_OF = ("F32", "F16", "BF16")


def adapted(base: Checkpoint, adapter: Adapter) -> Checkpoint:
    """The base with its tensors as the adapter makes them. Nothing is read but headers.

    Raises:
        CompatibilityError: the adapter does not belong to this base.
    """
    place = fit(adapter, base)
    tensors: dict[str, TensorInput] = {name: base.tensors[name] for name in _in_file_order(base)}
    for name, entry in place.replaced.items():
        tensors[name] = ReplacedTensor(name, base.tensors[name].dtype, entry)
    for name, each in place.fits.items():
        if each.transposed and (each.pair.magnitude or adapter.config.start == "olora"):
            kind = "DoRA" if each.pair.magnitude else "OLoRA"
            raise CompatibilityError(
                f"{name} is stored (in, out), for which {kind} is not supported",
                where=str(adapter.directory),
                mend="merge the adapter into its base with PEFT (merge_and_unload)",
            )
        # A weight that was saved beside its factors is what was left of the base's already, and
        # PEFT leaves embeddings whole.
        if adapter.config.start and not each.pair.embedding and name not in place.replaced:
            tensors[name] = _residual(adapter, adapter.config.start, base, each)
        tensors[name] = AdaptedTensor(name, base.tensors[name].dtype, tensors[name], each)
    changed = (*place.replaced, *place.fits)
    parted = not adapter.config.tie_weights and _parts_head(base, changed)
    return replace(base, tensors=MappingProxyType(tensors), parted=parted)


def _parts_head(base: Checkpoint, changed: Collection[str]) -> bool:
    """Whether a head that is stored beside the embeddings, and may be a copy, is one no longer."""
    if not any(group_of(name) == "head" for name in base.tensors):
        return False
    return any(
        group_of(name) == "head" or (group_of(name) == "embeddings" and is_vocabulary(base, name))
        for name in changed
    )


def _residual(adapter: Adapter, start: Start, base: Checkpoint, fit: Fit) -> ResidualTensor:
    """What training began with in place of the base's weight."""
    origin = base.tensors[fit.tensor]
    if origin.dtype not in _TAKEN_OUT_OF:
        raise CompatibilityError(
            f"{fit.tensor} of {base.directory} is {name_of(origin.dtype)}; {start} takes its start"
            " out of float32, float16 or bfloat16 alone",
            where=str(adapter.directory),
            mend="apply it to the checkpoint that it was trained on",
        )
    pair = fit.pair
    return ResidualTensor(
        fit.tensor, origin.dtype, origin, start, pair.rank, pair.scaling, adapter.directory
    )


def _in_file_order(base: Checkpoint) -> list[str]:
    def place(name: str) -> tuple[str, int]:
        first = base.tensors[name].entries[0]
        return first.path.name, first.offset

    return sorted(base.tensors, key=place)
