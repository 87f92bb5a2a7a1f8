"""Recipes: a merge and nothing else, in mergekit's YAML.

Stricter than mergekit: unknown keys and parameters are errors with a "did you mean", and every
error names its place. Arithmetic is always float64; `dtype` and `out_dtype` name what is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from merge_core.digests import digest_of
from merge_core.dtypes import code_of
from merge_core.errors import RecipeError, did_you_mean
from merge_core.methods import method_named
from merge_core.methods.base import Method
from merge_core.parameters import check_settings
from merge_core.records import Record
from merge_core.yaml_files import load_yaml, validated

_MANY_MODELS = 4
_LATER = {"modules": "merging by module", "tokenizer": "token sources"}


class ModelEntry(Record):
    """One model of a recipe with its own parameters."""

    model: str = Field(min_length=1)
    parameters: dict[str, Any] = Field(default_factory=dict)


class SliceSource(Record):
    """One model's share of a slice: layers from `layer_range[0]` up to, not including, `[1]`."""

    model: str = Field(min_length=1)
    layer_range: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]]
    parameters: dict[str, Any] = Field(default_factory=dict)


class Slice(Record):
    """A run of output layers, made of equally long runs of its sources' layers."""

    sources: tuple[SliceSource, ...] = Field(min_length=1)
    parameters: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Member:
    """One model in one part of a recipe."""

    model: str
    parameters: Mapping[str, Any]
    layers: tuple[int, int] | None
    """The range of its layers that goes into a slice; None for the whole model."""


@dataclass(frozen=True)
class Part:
    """A recipe is one part, or one for each slice."""

    where: str
    """YAML path of its members."""
    members: tuple[Member, ...]
    parameters: Mapping[str, Any]


class Recipe(Record):
    """A checked merge recipe. Make one with `load_recipe` or `parse_recipe`."""

    merge_method: str
    base_model: str | None = None
    models: tuple[ModelEntry, ...] = ()
    slices: tuple[Slice, ...] = ()
    """In place of models: the result's layers, stacked from runs of layers (a frankenmerge)."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: str | None = None
    """`base`, or the reference of the model whose tokenizer files go into the result."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """Seed of the random methods."""
    name: str | None = None

    @property
    def method(self) -> Method:
        """The merge method."""
        return method_named(self.merge_method)

    @property
    def digest(self) -> str:
        """sha256 of the recipe's meaning: its canonical JSON without the name and empty fields."""
        return digest_of(self.model_dump(exclude={"name"}, exclude_defaults=True))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The recipe in its common form, whether it lists models or slices."""
        if not self.slices:
            members = tuple(Member(entry.model, entry.parameters, None) for entry in self.models)
            return (Part("models", members, {}),)
        return tuple(
            Part(
                f"slices[{index}].sources",
                tuple(
                    Member(source.model, source.parameters, source.layer_range)
                    for source in each.sources
                ),
                each.parameters,
            )
            for index, each in enumerate(self.slices)
        )

    def inputs(self, part: Part) -> tuple[Member, ...]:
        """The models that a part combines: a listed base only where the method takes it as one."""
        if self.method.base_is_input:
            return part.members
        return tuple(member for member in part.members if member.model != self.base_model)

    def input_references(self) -> list[str]:
        """Every checkpoint that is combined in some part, each once."""
        listed = [member.model for part in self.parts for member in self.inputs(part)]
        return list(dict.fromkeys(listed))

    @property
    def stored_dtype(self) -> str | None:
        """Safetensors code of the dtype to store, or None to keep each tensor's own."""
        name = self.out_dtype or self.dtype
        return code_of(name, "out_dtype" if self.out_dtype else "dtype") if name else None

    @property
    def donor(self) -> str:
        """The reference that config and layout come from: the base, else the first model."""
        return self.references()[0]

    @property
    def tokenizer_donor(self) -> str:
        """The reference that tokenizer and chat template come from."""
        if self.tokenizer_source in (None, "base"):
            return self.donor
        return str(self.tokenizer_source)

    def references(self) -> list[str]:
        """Every checkpoint that must be read, the base first, each once."""
        listed = [member.model for part in self.parts for member in part.members]
        return list(dict.fromkeys([*((self.base_model,) if self.base_model else ()), *listed]))

    def levels(self, part: Part, member: Member | None = None) -> list[Mapping[str, Any]]:
        """Where a parameter is looked up, the most specific first."""
        own = [member.parameters] if member else []
        return [*own, part.parameters, self.parameters]

    def warnings(self) -> list[str]:
        """What is allowed but often a mistake, in words."""
        found = []
        crowd = max(len(self.inputs(part)) for part in self.parts)
        if crowd > _MANY_MODELS:
            found.append(f"{crowd} models are merged; interference grows with their number")
        found += [
            f"{where} is {value:g}: a scale above 1 often leaves the loss basin"
            for where, value in self._scales()
            if abs(value) > 1
        ]
        if self.merge_method == "task_arithmetic" and any(
            "density" in level
            for part in self.parts
            for member in self.inputs(part)
            for level in self.levels(part, member)
        ):
            found.append("density has no effect in task_arithmetic; use ties or dare_linear")
        return found

    def _scales(self) -> list[tuple[str, float]]:
        names = {parameter.name for parameter in self.method.parameters} & {"weight", "lambda"}
        if self.method.base != "required":
            return []
        levels: list[tuple[str, Mapping[str, Any]]] = []
        for part in self.parts:
            levels += [
                (f"{part.where}[{index}].parameters", member.parameters)
                for index, member in enumerate(part.members)
            ]
            levels.append((f"{part.where.rpartition('.')[0]}.parameters", part.parameters))
        levels.append(("parameters", self.parameters))
        return [
            (f"{where}.{name}", number)
            for where, level in levels
            for name in sorted(names)
            for number in _largest_number(level.get(name))
        ]


def load_recipe(path: Path) -> Recipe:
    """A recipe from a YAML file.

    Raises:
        RecipeError: unreadable, not YAML, or not a meaningful recipe.
    """
    return parse_recipe(load_yaml(path), where=str(path))


def parse_recipe(value: str | Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from YAML text or from a mapping, checked against its method.

    Raises:
        RecipeError: every problem names its YAML path and what would be right.
    """
    mapping = load_yaml(value, where) if isinstance(value, str) else dict(value)
    for key, what in _LATER.items():
        if mapping.get(key) is not None:
            raise RecipeError(
                f"{key}: {what} is not supported by this version", where=where, mend="use models"
            )
    recipe = validated(Recipe, mapping, where)
    try:
        _check(recipe)
    except RecipeError as error:
        place = f"{where}: {error.where}" if error.where else where
        raise RecipeError(error.what, where=place, mend=error.mend) from None
    return recipe


def _check(recipe: Recipe) -> None:
    method = recipe.method
    if recipe.dtype:
        code_of(recipe.dtype, "dtype")
    if recipe.out_dtype:
        code_of(recipe.out_dtype, "out_dtype")
    if bool(recipe.models) == bool(recipe.slices):
        raise RecipeError("list the models under models, or layers under slices", where="models")
    if method.base == "required" and recipe.base_model is None:
        raise RecipeError(
            f"{method.name} needs base_model: the checkpoint that the models were fine-tuned from",
            where="base_model",
        )
    listed = recipe.references()
    check_settings(
        recipe.parameters, method.parameters, "parameters", method=method.name, models=listed
    )
    for part in recipe.parts:
        place = f"{part.where.rpartition('.')[0]}.parameters"
        check_settings(part.parameters, method.parameters, place, method=method.name, models=listed)
        for index, member in enumerate(part.members):
            check_settings(
                member.parameters,
                method.per_model(),
                f"{part.where}[{index}].parameters",
                method=method.name,
                models=listed,
            )
        _check_members(recipe, part)
        _check_required(recipe, part)
    _check_tokenizer_source(recipe)


def _check_members(recipe: Recipe, part: Part) -> None:
    method = recipe.method
    seen: set[str] = set()
    for index, member in enumerate(part.members):
        if member.model in seen:
            raise RecipeError(
                f"'{member.model}' is listed twice",
                where=f"{part.where}[{index}].model",
                mend="list it once, with the sum of the weights",
            )
        seen.add(member.model)
    besides = " besides the base" if method.base == "required" else ""
    count = len(recipe.inputs(part))
    if count < method.fewest_models:
        least = "a model" if method.fewest_models == 1 else f"{method.fewest_models} models"
        raise RecipeError(f"{method.name} needs {least}{besides}", where=part.where)
    if method.most_models is not None and count > method.most_models:
        plural = "" if method.most_models == 1 else "s"
        raise RecipeError(
            f"{method.name} takes {method.most_models} model{plural}{besides}, not {count}",
            where=part.where,
        )
    lengths = {last - first for first, last in (m.layers for m in part.members if m.layers)}
    if len(lengths) > 1 or any(length <= 0 for length in lengths):
        raise RecipeError(
            "the layer ranges of a slice must be equally long and not empty",
            where=part.where,
            mend="layer_range: [first, last] covers the layers first up to, not including, last",
        )


def _check_required(recipe: Recipe, part: Part) -> None:
    method = recipe.method
    for parameter in method.parameters:
        name = parameter.name
        if parameter.default is not None or _given(name, recipe.levels(part)):
            continue
        if not parameter.per_model:
            raise RecipeError(
                f"{method.name} needs '{name}': {parameter.help}",
                where=f"parameters.{name}",
                mend="set it; filters need a last entry without a filter",
            )
        for index, member in enumerate(part.members):
            if member in recipe.inputs(part) and not _given(name, [member.parameters]):
                raise RecipeError(
                    f"{method.name} needs '{name}' of '{member.model}': {parameter.help}",
                    where=f"{part.where}[{index}].parameters.{name}",
                    mend="set it here, or for all models under parameters",
                )


def _given(name: str, levels: Sequence[Mapping[str, Any]]) -> bool:
    """Whether some level has a value of a parameter for every tensor."""
    return any(name in level and _is_total(level[name]) for level in levels)


def _check_tokenizer_source(recipe: Recipe) -> None:
    source = recipe.tokenizer_source
    if source == "union":
        raise RecipeError(
            "union is not supported by this version; all checkpoints must share one tokenizer",
            where="tokenizer_source",
        )
    if source not in (None, "base", *recipe.references()):
        raise RecipeError(
            f"'{source}' is not one of the checkpoints;"
            f" {did_you_mean(str(source), ['base', *recipe.references()])}",
            where="tokenizer_source",
        )


def _is_total(value: Any) -> bool:
    """Whether a setting has a value for every tensor."""
    if isinstance(value, list | tuple) and isinstance(value[0], Mapping):
        return any(entry.get("filter") in (None, "*") for entry in value)
    return True


def _largest_number(value: Any) -> Sequence[float]:
    """The number of largest magnitude in a setting, in any of its forms; nothing for None."""
    if isinstance(value, Mapping):
        value = value.get("value")
    if isinstance(value, list | tuple):
        numbers = [number for item in value for number in _largest_number(item)]
        return [max(numbers, key=abs)] if numbers else []
    return [float(value)] if isinstance(value, int | float) else []
