"""From a recipe to its merged tensors: every output tensor with resolved parameters and inputs.

Recipes that a recipe uses by name become checkpoints of merged tensors, which the expansion then
treats like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.errors import CompatibilityError, RecipeError
from merge_core.methods.base import Method
from merge_core.methods.parameter import Parameter, Scalar
from merge_core.methods.parts.random_bits import random_keys
from merge_core.methods.post_steps import post_step_named
from merge_core.planning.engine_version import ENGINE
from merge_core.planning.expansion import Expansion, expand
from merge_core.planning.merged_tensor import COPY, MergedTensor
from merge_core.planning.model_config import result_config
from merge_core.recipes.parameters import Level, resolve, resolver
from merge_core.recipes.parts import Part
from merge_core.recipes.recipe import Recipe
from merge_core.tensors.dtypes import MERGEABLE, name_of
from merge_core.tensors.inputs import TensorInput
from merge_core.tensors.kinds import is_computed_buffer, kind_of_dtype
from merge_core.tokenizers.merged import MergedTokenizer
from merge_core.verification.tied_copies import Copies

MOST_READINGS = 256
"""Most checkpoints that one tensor may be read from, counting each time that recipes used by name
read one: recipes that use each other twice double the work with every step."""

WHOLE_MODEL = "*"
"""Name of a statistic that is measured once for a model, not for each tensor."""

_LAST = "the last recipe"
"""Stands for the name of a recipe that has none; no recipe that others use can be called so."""
_Resolver = Callable[[str, float], Mapping[str, Scalar]]


@dataclass
class RecipeInputs:
    """What the tensors of a recipe are computed from, by reference."""

    checkpoints: dict[str, Checkpoint]
    digests: dict[str, str]
    """Of each checkpoint's content; random masks depend on it."""
    calibration: Mapping[str, Checkpoint] = field(default_factory=dict)
    """What calibration measured of a model, tensor by tensor under the model's own names."""
    observed: dict[str, tuple[MergedTensor, ...]] = field(default_factory=dict)
    """Filled while planning: the tensors of each recipe whose method has model statistics."""
    readings: dict[str, int] = field(default_factory=dict)
    """Filled while planning: how many checkpoints a tensor of each named recipe is read from."""
    copies: Copies = field(default_factory=dict)
    """Tensors of the result that are copies of others of it."""
    engine: str = ENGINE
    """Version of the engine that the result's bytes belong to."""
    tokenizer: MergedTokenizer | None = None
    """The result's, where vocabularies are merged."""
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Filled while planning: the config of each recipe's result."""

    def config_of(self, recipe: Recipe) -> dict[str, Any]:
        """The config of a recipe's result, once its tensors are planned."""
        return self.configs[recipe.name or _LAST]


def plan_tensors(recipe: Recipe, inputs: RecipeInputs) -> list[MergedTensor]:
    """The output tensors of a recipe, in an order that reads the donor's files front to back.

    Raises:
        CompatibilityError: the inputs do not have the same tensors with the same shapes.
        RecipeError: parameters that do not go together, layers that a model does not have.
    """
    for earlier in recipe.recipes:
        assert earlier.name is not None
        if earlier.name in inputs.checkpoints:
            continue
        tensors = plan_tensors(earlier, inputs)
        config = inputs.config_of(earlier)
        inputs.readings[earlier.name] = _readings(earlier, inputs)
        inputs.checkpoints[earlier.name] = _view(earlier, tensors, config)
    _readings(recipe, inputs)
    expansions = expand(recipe, inputs.checkpoints)
    inputs.configs[recipe.name or _LAST] = result_config(recipe, inputs.checkpoints)
    distinct = {id(each.part): each.part for each in expansions}
    resolved = {key: _PartSettings.of(recipe, part, inputs) for key, part in distinct.items()}
    method = recipe.method
    tensors = [_planned(method, each, resolved[id(each.part)], inputs) for each in expansions]
    _check_parameters(method, tensors)
    return _tied(_with_model_statistics(recipe, tensors, inputs), inputs.copies)


def _tied(tensors: list[MergedTensor], copies: Copies) -> list[MergedTensor]:
    """Give copies the computation of what they are copies of, whatever a filter, a mask or a slice
    would make of them."""
    if not copies:
        return tensors
    by_name = {tensor.name: tensor for tensor in tensors}
    return [
        by_name[origin].called(tensor.name)
        if (origin := copies.get(tensor.name)) in by_name and origin is not None
        else tensor
        for tensor in tensors
    ]


def _readings(recipe: Recipe, inputs: RecipeInputs) -> int:
    """How many checkpoints a tensor of a recipe is read from, each as often as it is read.

    Raises:
        RecipeError: too many for a merge that ends.
    """
    count = max(
        sum(
            inputs.readings.get(name, 1)
            for name in (*([part.base] if part.base else []), *(m.model for m in part.members))
        )
        for part in recipe.parts
    )
    if count > MOST_READINGS:
        raise RecipeError(
            f"it reads {count} checkpoints for each tensor, through the recipes that it uses by"
            f" name; at most {MOST_READINGS} are allowed",
            where=f"recipe {recipe.name}" if recipe.name else "models",
            mend="merge some of the recipes on their own first, and name their results",
        )
    return count


def _view(recipe: Recipe, tensors: Sequence[MergedTensor], config: Mapping[str, Any]) -> Checkpoint:
    """A recipe's result as a checkpoint that others read."""
    return Checkpoint(
        directory=Path(f"recipe {recipe.name}"),
        tensors=MappingProxyType({tensor.name: tensor for tensor in tensors}),
        config=config,
    )


def _planned(
    method: Method, each: Expansion, part: _PartSettings, inputs: RecipeInputs
) -> MergedTensor:
    stored, pattern = part.stored_dtype, each.pattern
    dtype = pattern.dtype
    if each.kept or dtype not in MERGEABLE or is_computed_buffer(each.name):
        return _taken_over(each, stored if stored and dtype in MERGEABLE else dtype)
    _check_kinds(each)
    return MergedTensor(
        name=each.name,
        dtype=stored or dtype,
        shape=pattern.shape,
        method=method.name,
        base=each.base if part.reads_base else None,
        inputs=each.inputs,
        models=part.models,
        model_parameters=part.constants
        or tuple(
            [
                resolver(entry.name, each.depth)
                for resolver, entry in zip(part.per_model, each.inputs, strict=True)
            ]
        ),
        parameters=part.recipe_wide(each.name, each.depth),
        random_keys=tuple([key(each.name) for key in part.random_keys]),
        post=tuple([(name, resolver(each.name, each.depth)) for name, resolver in part.post]),
        calibration=_calibration(method, part.references, each.inputs, inputs),
        depth=each.depth,
        in_layers=each.in_layers,
    )


def _taken_over(each: Expansion, dtype: str) -> MergedTensor:
    """A tensor that is not merged: excluded, or of a dtype that has no mean."""
    if dtype in MERGEABLE:
        return MergedTensor(
            name=each.name,
            dtype=dtype,
            shape=each.pattern.shape,
            method="passthrough",
            base=None,
            inputs=(each.pattern,),
            models=(0,),
            model_parameters=({"scale": 1.0},),
            parameters={},
        )
    sources: tuple[TensorInput, ...] = (each.pattern,)
    if not each.kept:
        _check_kinds(each)
        sources = (*((each.base,) if each.base is not None else ()), *each.inputs)
    entries = tuple(entry for source in sources for entry in source.entries)
    return MergedTensor(
        name=each.name,
        dtype=dtype,
        shape=each.pattern.shape,
        method=COPY,
        base=None,
        inputs=entries,
        models=(),
        model_parameters=(),
        parameters={},
    )


def _check_kinds(each: Expansion) -> None:
    """Refuse to combine weights with what is none.

    Raises:
        CompatibilityError: an input holds integers or flags where another holds weights.
    """
    pattern = each.pattern
    for source in each.inputs:
        if source.dtype == pattern.dtype:
            continue
        ours, theirs = kind_of_dtype(pattern.dtype), kind_of_dtype(source.dtype)
        if ours != theirs:
            entries = source.entries
            raise CompatibilityError(
                f"tensor {source.name} holds {theirs} ({name_of(source.dtype)}) where another"
                f" checkpoint has {ours} ({name_of(pattern.dtype)}); they cannot be averaged",
                where=str(entries[0].path.parent) if entries else source.name,
                mend="save the checkpoint again as it was trained, or keep the base's by"
                f" `exclude: [{each.name}]` in the recipe",
            )


def _random_keys(
    recipe: Recipe, references: Sequence[str], inputs: RecipeInputs
) -> list[Callable[[str], int]]:
    """One key for each input of a tensor, by its name: the same model twice gets two."""
    digests = [inputs.digests[reference] for reference in references]
    return [
        random_keys(
            str(recipe.seed), recipe.merge_method, digest, str(digests[:index].count(digest))
        )
        for index, digest in enumerate(digests)
    ]


def _calibration(
    method: Method,
    references: Sequence[str],
    sources: Sequence[TensorInput],
    inputs: RecipeInputs,
) -> tuple[TensorInput, ...]:
    """What calibration measured of every model for this tensor; nothing if one of them lacks it.

    A plan to look at is made before anything is measured; `merge` refuses to go on without.
    """
    if method.calibration is None or not inputs.calibration:
        return ()
    found = []
    for reference, source in zip(references, sources, strict=True):
        measured = inputs.calibration[reference].tensors
        found.append(measured.get(source.name) or measured.get(WHOLE_MODEL))
    present = tuple(statistic for statistic in found if statistic is not None)
    return present if len(present) == len(found) else ()


def _with_model_statistics(
    recipe: Recipe, tensors: list[MergedTensor], inputs: RecipeInputs
) -> list[MergedTensor]:
    """Mark the tensors of a method that must see the whole model first."""
    method = recipe.method
    if type(method).model_statistics is Method.model_statistics:
        return tensors
    observed = [tensor for tensor in tensors if tensor.method == method.name]
    if method.model_statistics([tensor.job(None) for tensor in observed]) is None:
        return tensors
    key = recipe.name or _LAST
    inputs.observed[key] = tuple(observed)
    return [
        tensor._replace(statistics_key=key) if tensor.method == method.name else tensor
        for tensor in tensors
    ]


@dataclass(frozen=True)
class _PartSettings:
    """What the tensors of one part of a recipe have in common."""

    references: list[str]
    """Of the checkpoints that are combined."""
    models: tuple[int, ...]
    """Their positions among all that the recipe combines."""
    per_model: list[_Resolver]
    """For each of them, and below for all: from tensor and depth to resolved parameters."""
    constants: tuple[Mapping[str, Scalar], ...]
    """What `per_model` gives for every tensor; empty where that differs."""
    recipe_wide: _Resolver
    post: list[tuple[str, _Resolver]]
    random_keys: list[Callable[[str], int]]
    """From tensor to key, one for each checkpoint; empty for methods that draw nothing."""
    stored_dtype: str | None
    """The dtype code that the recipe asks for."""
    reads_base: bool

    @classmethod
    def of(cls, recipe: Recipe, part: Part, inputs: RecipeInputs) -> _PartSettings:
        method, members = recipe.method, recipe.inputs(part)
        listed = recipe.input_references()
        references = [member.model for member in members]
        levels = [recipe.levels(part, member) for member in members]
        per_model = _resolvers(method.per_model(), levels)
        varies = any(_varying(method.per_model(), each) for each in levels)
        return cls(
            references=references,
            models=tuple(listed.index(reference) for reference in references),
            per_model=per_model,
            constants=() if varies else tuple(each("", 0.0) for each in per_model),
            recipe_wide=_resolver(method.recipe_wide(), recipe.levels(part)),
            post=[
                (
                    entry.step,
                    _resolver(post_step_named(entry.step).parameters, recipe.post_levels(index)),
                )
                for index, entry in enumerate(recipe.post)
            ],
            random_keys=_random_keys(recipe, references, inputs) if method.random else [],
            stored_dtype=recipe.stored_dtype,
            reads_base=not method.base_is_input or bool(recipe.post),
        )


def _check_parameters(method: Method, tensors: Sequence[MergedTensor]) -> None:
    checked: tuple[object, object] | None = None
    for tensor in tensors:
        settings = (tensor.model_parameters, tensor.parameters)
        if tensor.method != method.name or checked == settings:
            continue
        try:
            method.check(tensor.model_parameters, tensor.parameters)
        except RecipeError as error:
            raise RecipeError(error.what, where=f"tensor {tensor.name}", mend=error.mend) from None
        checked = settings


def _resolvers(
    parameters: Sequence[Parameter], levels: Sequence[Sequence[Level]]
) -> list[_Resolver]:
    """One for each model's levels; models that are set alike share theirs."""
    made: dict[str, _Resolver] = {}
    resolvers = []
    for own in levels:
        alike = repr([[level.get(each.name) for level in own] for each in parameters])
        if alike not in made:
            made[alike] = _resolver(parameters, own)
        resolvers.append(made[alike])
    return resolvers


def _varying(parameters: Sequence[Parameter], levels: Sequence[Level]) -> list[Parameter]:
    """The parameters that may differ between tensors."""
    return [
        parameter
        for parameter in parameters
        if any(isinstance(level.get(parameter.name), list | tuple) for level in levels)
    ]


def _resolver(parameters: Sequence[Parameter], levels: Sequence[Level]) -> _Resolver:
    """A function from tensor to resolved parameters; constants are resolved once and shared."""
    varying = _varying(parameters, levels)
    constant = {
        parameter.name: resolve(parameter, levels, "", 0.0)
        for parameter in parameters
        if parameter not in varying
    }
    if not varying:
        return lambda _name, _depth: constant

    resolvers = {parameter.name: resolver(parameter, levels) for parameter in varying}

    @lru_cache(maxsize=1)  # the next model that is set alike asks for the same tensor
    def resolved(name: str, depth: float) -> Mapping[str, Scalar]:
        return constant | {key: resolve_one(name, depth) for key, resolve_one in resolvers.items()}

    return resolved
