"""A checkpoint with an adapter applied, which exists only while it is read."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from merge_core.checkpoints.adapters.files import Adapter
from merge_core.checkpoints.adapters.fitting import fit
from merge_core.checkpoints.adapters.tensors import AdaptedTensor, ReplacedTensor
from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.errors import CompatibilityError
from merge_core.tensors.inputs import TensorInput, entries_of


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
        if each.transposed and each.pair.magnitude:
            raise CompatibilityError(
                f"{name} is stored (in, out), for which DoRA is not supported",
                where=str(adapter.directory),
                mend="merge the adapter into its base with PEFT (merge_and_unload)",
            )
        tensors[name] = AdaptedTensor(name, base.tensors[name].dtype, tensors[name], each)
    return replace(base, tensors=MappingProxyType(tensors))


def _in_file_order(base: Checkpoint) -> list[str]:
    def place(name: str) -> tuple[str, int]:
        first = entries_of(base.tensors[name])[0]
        return first.path.name, first.offset

    return sorted(base.tensors, key=place)
