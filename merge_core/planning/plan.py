"""The plan of a merge: every output tensor with its inputs, parameters, method and exact place.

Made from headers alone. A plan is a value: printable, hashable, and all that the engine needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.checkpoints.sources import open_source
from merge_core.checkpoints.tensor_names import named_alike
from merge_core.files.digests import digest_of
from merge_core.methods import external_code
from merge_core.planning.derived_buffers import with_buffers_of
from merge_core.planning.engine_version import ENGINE, Peculiarities, engine_of
from merge_core.planning.layout import DEFAULT_SHARD_BYTES, PlannedShard, Slot, lay_out
from merge_core.planning.merged_tensor import MergedTensor
from merge_core.planning.merged_tensors import RecipeInputs, plan_tensors
from merge_core.recipes.recipe import Recipe
from merge_core.records import MergeInput, SourceCheckpoint
from merge_core.runtime.garbage import collection_paused
from merge_core.tensors.dtypes import name_of
from merge_core.tensors.safetensors_header import KnownHeaders
from merge_core.tokenizers.alignment import align_vocabularies
from merge_core.tokenizers.merged import MergedTokenizer
from merge_core.verification.tied_copies import tied_copies, with_copies

STACKING = "2"
"""Raised when the same slices would give another config; in the digest of plans with slices."""


class PlannedTensor(NamedTuple):
    """One output tensor: what it is made of, how, and where it goes."""

    slot: Slot
    merged: MergedTensor

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.slot.name

    @property
    def method(self) -> str:
        """Name of the merge method, or `copy`."""
        return self.merged.method


@dataclass(frozen=True)
class Plan:
    """Everything the engine needs, and what identifies the result before it exists."""

    recipe: Recipe
    tensors: tuple[PlannedTensor, ...]
    """In the order of their place in the output."""
    shards: tuple[PlannedShard, ...]
    inputs: tuple[MergeInput, ...]
    digest: str
    """sha256 over the recipe, the inputs' digests, the shard size and the engine's version."""
    observed: Mapping[str, tuple[MergedTensor, ...]] = field(default_factory=dict)
    """The tensors that model statistics are of, by their keys, in the order to gather them."""
    tokenizer: MergedTokenizer | None = None
    """The result's tokenizer, where vocabularies are merged."""
    copy_code: bool = False
    """Whether the donor's own code goes with the result."""
    engine: str = ENGINE
    """The version of the engine that its bytes belong to (`merge_core.planning.engine_version`)."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The donor's config with the layers of the result; empty where the donor has none."""

    @property
    def output_bytes(self) -> int:
        """Size of all weight files to write."""
        return sum(shard.nbytes for shard in self.shards)

    @property
    def input_bytes(self) -> int:
        """Bytes of weights that are read in one pass over every input."""
        return sum(entry.nbytes for tensor in self.tensors for entry in tensor.merged.entries)

    @property
    def parameters(self) -> int:
        """Number of weights in the result."""
        return sum(tensor.slot.numel for tensor in self.tensors)

    @property
    def dtype(self) -> str:
        """torch's name of the dtype that most result weights are stored in."""
        weights: dict[str, int] = {}
        for tensor in self.tensors:
            weights[tensor.slot.dtype] = weights.get(tensor.slot.dtype, 0) + tensor.slot.numel
        return name_of(max(weights, key=lambda code: weights[code]))


def plan_key(
    recipe: Recipe,
    sources: Mapping[str, SourceCheckpoint],
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    calibration: Mapping[str, SourceCheckpoint] | None = None,
    copy_code: bool = False,
    engine: str | None = None,
) -> str:
    """The digest of the plan that `make_plan` would make: a merge done before is found by it.

    In it is all that decides the result's bytes: the recipe (`Recipe.digest`: all but its name and
    what has its default), the content of each source by its reference, the shard size, the engine's
    version, the code of methods from outside of the package, what was measured on calibration data,
    whether the donor's own code is copied, whether layers are stacked. Device, threads and workers
    change no byte and are not in it.

    Args:
        engine: its version, where that is known; by default headers are looked at.

    Raises:
        CheckpointError: a checkpoint is damaged.
    """
    if engine is None:
        opened = (open_source(sources[reference]) for reference in recipe.references())
        engine = engine_of(recipe, Peculiarities.of(opened))
    identity = _identity(recipe, sources, shard_bytes, engine)
    if calibration:
        measured = {reference: each.digest for reference, each in calibration.items()}
        identity["statistics"] = measured
    if copy_code:
        identity["copy_code"] = True
    if any(section.stacked for each in (*recipe.recipes, recipe) for section in each.sections):
        identity["stacking"] = STACKING
    return digest_of(identity)


@collection_paused()
def make_plan(
    recipe: Recipe,
    sources: Mapping[str, SourceCheckpoint],
    *,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    calibration: Mapping[str, SourceCheckpoint] | None = None,
    copy_code: bool = False,
) -> Plan:
    """Plan a merge from the headers of its checkpoints.

    Args:
        sources: a checkpoint for each of `recipe.references()`.
        shard_bytes: upper bound of a weight file's data, in bytes.
        calibration: for methods that use calibration data, what was measured of each model.
        copy_code: take over the donor's own code (.py files that its config names).

    Raises:
        CheckpointError: an input is damaged.
        CompatibilityError: the inputs do not have the same tensors with the same shapes.
    """
    inputs = open_inputs(recipe, sources, calibration)
    tensors = plan_tensors(recipe, inputs)
    placed = [(each.name, each.dtype, each.shape) for each in tensors]
    slots, shards = lay_out(placed, shard_bytes, inputs.checkpoints[recipe.donor].stem)
    by_name = {each.name: each for each in tensors}
    return Plan(
        recipe=recipe,
        tensors=tuple(PlannedTensor(slot, by_name[slot.name]) for slot in slots),
        shards=shards,
        inputs=merge_inputs(recipe, sources),
        digest=plan_key(recipe, sources, shard_bytes, calibration, copy_code, inputs.engine),
        engine=inputs.engine,
        observed=inputs.observed,
        tokenizer=inputs.tokenizer,
        copy_code=copy_code,
        config=inputs.config_of(recipe),
    )


@collection_paused()
def open_inputs(
    recipe: Recipe,
    sources: Mapping[str, SourceCheckpoint],
    calibration: Mapping[str, SourceCheckpoint] | None = None,
) -> RecipeInputs:
    """The checkpoints of a recipe, from their headers. Arguments as for `make_plan`.

    Raises:
        CheckpointError: one is damaged.
        CompatibilityError: their vocabularies differ, and the recipe does not say what to do.
    """
    known: KnownHeaders = {}
    opened = {
        reference: open_source(sources[reference], known) for reference in recipe.references()
    }
    peculiar = Peculiarities.of(opened.values())
    opened = with_buffers_of(named_alike(opened, recipe.donor), recipe.donor)
    copies = tied_copies(list(opened.values()))
    kept = {name: origin for name, origin in copies.items() if name in opened[recipe.donor].tensors}
    opened = {reference: with_copies(each, copies, kept) for reference, each in opened.items()}
    aligned, tokenizer = align_vocabularies(recipe, opened, sources)
    return RecipeInputs(
        checkpoints=dict(aligned),
        digests=_digests(recipe, sources, peculiar),
        copies=kept,
        engine=engine_of(recipe, peculiar),
        calibration={
            reference: open_checkpoint(measured.directory)
            for reference, measured in (calibration or {}).items()
        },
        tokenizer=tokenizer,
    )


def _digests(
    recipe: Recipe, sources: Mapping[str, SourceCheckpoint], peculiar: Peculiarities
) -> dict[str, str]:
    """The content of every checkpoint and, for recipes used by name, of what they are made of."""
    digests = {reference: sources[reference].digest for reference in recipe.references()}
    for earlier in recipe.recipes:
        identity = _identity(earlier, sources, DEFAULT_SHARD_BYTES, engine_of(earlier, peculiar))
        digests[str(earlier.name)] = digest_of(identity)
    return digests


def _identity(
    recipe: Recipe, sources: Mapping[str, SourceCheckpoint], shard_bytes: int, engine: str
) -> dict[str, Any]:
    """What decides the weights, but for what was measured of models. Random masks depend on it."""
    identity = {
        "recipe": recipe.digest,
        "sources": {reference: sources[reference].digest for reference in recipe.references()},
        "shard_bytes": shard_bytes,
        "engine": engine,
    }
    external = external_code(each.merge_method for each in (*recipe.recipes, recipe))
    return identity | {"external_methods": external} if external else identity


def merge_inputs(recipe: Recipe, sources: Mapping[str, SourceCheckpoint]) -> tuple[MergeInput, ...]:
    """The ingredients as a manifest lists them: the base first, then in the recipe's order."""

    def entry(reference: str, role: Literal["base", "model"]) -> MergeInput:
        return MergeInput(reference=reference, digest=sources[reference].digest, role=role)

    leaves = recipe.references()
    listed = [reference for reference in recipe.input_references() if reference in leaves]
    base = [recipe.base_checkpoint] if recipe.base_checkpoint else []
    used = {*base, *listed}
    return (
        *(entry(reference, "base") for reference in base),
        *(entry(reference, "model") for reference in listed),
        *(entry(reference, "model") for reference in leaves if reference not in used),
    )
