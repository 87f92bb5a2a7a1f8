"""The plan of a merge: every output tensor with its inputs, parameters, method and exact place.

Made from headers alone. A plan is a value: printable, hashable, and all that the engine needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from merge_core.checkpoint import open_checkpoint
from merge_core.digests import digest_of
from merge_core.dtypes import MERGEABLE, name_of
from merge_core.errors import RecipeError
from merge_core.expansion import Expansion, expand
from merge_core.layout import DEFAULT_SHARD_BYTES, PlannedShard, Slot, lay_out
from merge_core.methods.base import Method
from merge_core.methods.random_bits import random_key
from merge_core.parameters import Parameter, Scalar, resolve
from merge_core.recipe import Part, Recipe
from merge_core.records import MergeInput, SourceCheckpoint
from merge_core.safetensors_header import TensorEntry

ENGINE = "1"
"""Raised when the same plan would give other bytes; part of every plan's digest."""

COPY = "copy"
"""In place of a method: values that cannot be averaged (integers, flags) and must be equal."""

_Resolver = Callable[[str, float], Mapping[str, Scalar]]


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One output tensor: what it is made of, how, and where it goes."""

    slot: Slot
    method: str
    """Name of the merge method, or `copy`."""
    base: TensorEntry | None
    inputs: tuple[TensorEntry, ...]
    models: tuple[int, ...]
    """For each input the position of its model among the plan's combined models."""
    model_parameters: tuple[Mapping[str, Scalar], ...]
    parameters: Mapping[str, Scalar]

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.slot.name


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

    @property
    def output_bytes(self) -> int:
        """Size of all weight files to write."""
        return sum(shard.nbytes for shard in self.shards)

    @property
    def input_bytes(self) -> int:
        """Bytes of weights that are read in one pass over every input."""
        return sum(
            entry.nbytes
            for tensor in self.tensors
            for entry in (*tensor.inputs, *((tensor.base,) if tensor.base else ()))
        )

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

    def random_keys(self, tensor: PlannedTensor) -> tuple[int, ...]:
        """One key for each input of a tensor: the same model twice gets two."""
        combined = [entry.digest for entry in self.inputs if entry.role == "model"]
        digests = [combined[model] for model in tensor.models]
        return tuple(
            random_key(
                str(self.recipe.seed),
                tensor.method,
                digest,
                str(digests[:index].count(digest)),
                tensor.name,
            )
            for index, digest in enumerate(digests)
        )


def plan_key(
    recipe: Recipe,
    sources: Mapping[str, SourceCheckpoint],
    shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> str:
    """The digest of the plan that `make_plan` would make, without reading headers."""
    return digest_of(
        {
            "recipe": recipe.digest,
            "sources": {reference: sources[reference].digest for reference in recipe.references()},
            "shard_bytes": shard_bytes,
            "engine": ENGINE,
        }
    )


def make_plan(
    recipe: Recipe,
    sources: Mapping[str, SourceCheckpoint],
    *,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> Plan:
    """Plan a merge from the headers of its checkpoints.

    Args:
        sources: a checkpoint for each of `recipe.references()`.
        shard_bytes: upper bound of a weight file's data, in bytes.

    Raises:
        CheckpointError: an input is damaged.
        CompatibilityError: the inputs do not have the same tensors with the same shapes.
    """
    checkpoints = {
        reference: open_checkpoint(sources[reference].directory)
        for reference in recipe.references()
    }
    expansions = expand(recipe, checkpoints)
    stored = recipe.stored_dtype
    slots, shards = lay_out(
        [
            (
                each.name,
                stored if stored and each.pattern.dtype in MERGEABLE else each.pattern.dtype,
                each.pattern.shape,
            )
            for each in expansions
        ],
        shard_bytes,
    )
    return Plan(
        recipe=recipe,
        tensors=_planned_tensors(recipe, expansions, slots),
        shards=shards,
        inputs=_inputs(recipe, sources),
        digest=plan_key(recipe, sources, shard_bytes),
    )


def _inputs(recipe: Recipe, sources: Mapping[str, SourceCheckpoint]) -> tuple[MergeInput, ...]:
    def entry(reference: str, role: Literal["base", "model"]) -> MergeInput:
        return MergeInput(reference=reference, digest=sources[reference].digest, role=role)

    base = [entry(recipe.base_model, "base")] if recipe.base_model else []
    return (*base, *(entry(reference, "model") for reference in recipe.input_references()))


def _planned_tensors(
    recipe: Recipe, expansions: Sequence[Expansion], slots: Sequence[Slot]
) -> tuple[PlannedTensor, ...]:
    method = recipe.method
    by_name = {each.name: each for each in expansions}
    digests = recipe.input_references()
    resolvers = {id(part): _resolvers(recipe, part) for part in (e.part for e in expansions)}
    planned = []
    checked: tuple[object, object] | None = None
    for slot in slots:
        each = by_name[slot.name]
        per_model, recipe_wide = resolvers[id(each.part)]
        model_parameters = tuple(
            resolver(entry.name, each.depth)
            for resolver, entry in zip(per_model, each.inputs, strict=True)
        )
        parameters = recipe_wide(slot.name, each.depth)
        if checked != (model_parameters, parameters):
            _check_parameters(method, slot.name, model_parameters, parameters)
            checked = (model_parameters, parameters)
        planned.append(
            PlannedTensor(
                slot=slot,
                method=method.name if slot.dtype in MERGEABLE else COPY,
                base=each.base if _reads_base(method, slot) else None,
                inputs=each.inputs,
                models=tuple(digests.index(m.model) for m in recipe.inputs(each.part)),
                model_parameters=model_parameters,
                parameters=parameters,
            )
        )
    return tuple(planned)


def _resolvers(recipe: Recipe, part: Part) -> tuple[list[_Resolver], _Resolver]:
    method = recipe.method
    per_model = [
        _resolver(method.per_model(), recipe.levels(part, member)) for member in recipe.inputs(part)
    ]
    return per_model, _resolver(method.recipe_wide(), recipe.levels(part))


def _check_parameters(
    method: Method,
    tensor: str,
    model_parameters: Sequence[Mapping[str, Scalar]],
    parameters: Mapping[str, Scalar],
) -> None:
    try:
        method.check(model_parameters, parameters)
    except RecipeError as error:
        raise RecipeError(error.what, where=f"tensor {tensor}", mend=error.mend) from None


def _reads_base(method: Method, slot: Slot) -> bool:
    return not method.base_is_input or slot.dtype not in MERGEABLE


def _resolver(parameters: Sequence[Parameter], levels: Sequence[Mapping[str, object]]) -> _Resolver:
    """A function from tensor to resolved parameters; constants are resolved once and shared."""
    varying = [
        parameter
        for parameter in parameters
        if any(isinstance(level.get(parameter.name), list | tuple) for level in levels)
    ]
    constant = {
        parameter.name: resolve(parameter, levels, "", 0.0)
        for parameter in parameters
        if parameter not in varying
    }
    if not varying:
        return lambda _name, _depth: constant

    def resolved(name: str, depth: float) -> Mapping[str, Scalar]:
        return constant | {
            parameter.name: resolve(parameter, levels, name, depth) for parameter in varying
        }

    return resolved
