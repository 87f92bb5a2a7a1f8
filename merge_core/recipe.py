"""Recipes: a merge and nothing else, in mergekit's YAML.

Stricter than mergekit: unknown keys and parameters are errors with a "did you mean", and every
error names its place. Arithmetic is always float64; `dtype` and `out_dtype` name what is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
_LATER = {"slices": "layer stacking", "modules": "merging by module", "tokenizer": "token sources"}


class ModelEntry(Record):
    """One model of a recipe with its own parameters."""

    model: str = Field(min_length=1)
    parameters: dict[str, Any] = Field(default_factory=dict)


class Recipe(Record):
    """A checked merge recipe. Make one with `load_recipe` or `parse_recipe`."""

    merge_method: str
    base_model: str | None = None
    models: tuple[ModelEntry, ...] = ()
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
    def inputs(self) -> tuple[ModelEntry, ...]:
        """The models that are combined: a listed base is one of them only where it is an input."""
        if self.method.base_is_input:
            return self.models
        return tuple(entry for entry in self.models if entry.model != self.base_model)

    @property
    def stored_dtype(self) -> str | None:
        """Safetensors code of the dtype to store, or None to keep each tensor's own."""
        name = self.out_dtype or self.dtype
        return code_of(name, "out_dtype" if self.out_dtype else "dtype") if name else None

    @property
    def donor(self) -> str:
        """The reference that config and layout come from: the base, else the first model."""
        return self.base_model or self.models[0].model

    @property
    def tokenizer_donor(self) -> str:
        """The reference that tokenizer and chat template come from."""
        if self.tokenizer_source in (None, "base"):
            return self.donor
        return str(self.tokenizer_source)

    def references(self) -> list[str]:
        """Every checkpoint that must be read, the base first, each once."""
        listed = [self.base_model] if self.base_model else []
        return list(dict.fromkeys([*listed, *(entry.model for entry in self.models)]))

    def levels(self, entry: ModelEntry) -> list[Mapping[str, Any]]:
        """Where a per-model parameter is looked up, the most specific first."""
        return [entry.parameters, self.parameters]

    def warnings(self) -> list[str]:
        """What is allowed but often a mistake, in words."""
        found = []
        if len(self.inputs) > _MANY_MODELS:
            found.append(
                f"{len(self.inputs)} models are merged; interference grows with their number"
            )
        found += [
            f"{where} is {value:g}: a scale above 1 often leaves the loss basin"
            for where, value in self._scales()
            if abs(value) > 1
        ]
        if self.merge_method == "task_arithmetic" and any(
            "density" in level for entry in self.inputs for level in self.levels(entry)
        ):
            found.append("density has no effect in task_arithmetic; use ties or dare_linear")
        return found

    def _scales(self) -> list[tuple[str, float]]:
        if self.method.base != "required" or self.merge_method == "slerp":
            return []
        places = [
            (f"models[{index}].parameters.weight", entry.parameters.get("weight"))
            for index, entry in enumerate(self.models)
        ]
        places += [
            (f"parameters.{name}", self.parameters.get(name)) for name in ("weight", "lambda")
        ]
        return [(where, number) for where, value in places for number in _largest_number(value)]


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
    _check_models(recipe, method)
    listed = [entry.model for entry in recipe.models]
    check_settings(
        recipe.parameters, method.parameters, "parameters", method=method.name, models=listed
    )
    for index, entry in enumerate(recipe.models):
        check_settings(
            entry.parameters,
            method.per_model(),
            f"models[{index}].parameters",
            method=method.name,
            models=listed,
        )
    _check_required(recipe, method)
    _check_tokenizer_source(recipe)


def _check_models(recipe: Recipe, method: Method) -> None:
    if not recipe.models:
        raise RecipeError("list at least one model under models", where="models")
    seen: set[str] = set()
    for index, entry in enumerate(recipe.models):
        if entry.model in seen:
            raise RecipeError(
                f"'{entry.model}' is listed twice",
                where=f"models[{index}].model",
                mend="list it once, with the sum of the weights",
            )
        seen.add(entry.model)
    if method.base == "required" and recipe.base_model is None:
        raise RecipeError(
            f"{method.name} needs base_model: the checkpoint that the models were fine-tuned from",
            where="base_model",
        )
    count = len(recipe.inputs)
    if count < method.fewest_models:
        besides = " besides the base" if method.base == "required" else ""
        raise RecipeError(f"{method.name} needs a model{besides}", where="models")
    if method.most_models is not None and count > method.most_models:
        besides = " besides the base" if method.base == "required" else ""
        raise RecipeError(
            f"{method.name} takes {method.most_models} model{besides}, not {count}", where="models"
        )


def _check_required(recipe: Recipe, method: Method) -> None:
    for parameter in method.parameters:
        if parameter.default is not None:
            continue
        if parameter.name in recipe.parameters and _is_total(recipe.parameters[parameter.name]):
            continue
        if not parameter.per_model:
            raise RecipeError(
                f"{method.name} needs '{parameter.name}': {parameter.help}",
                where=f"parameters.{parameter.name}",
                mend="set it; filters need a last entry without a filter",
            )
        for index, entry in enumerate(recipe.models):
            value = entry.parameters.get(parameter.name)
            if entry in recipe.inputs and (value is None or not _is_total(value)):
                raise RecipeError(
                    f"{method.name} needs '{parameter.name}' of '{entry.model}': {parameter.help}",
                    where=f"models[{index}].parameters.{parameter.name}",
                    mend="set it here, or for all models under parameters",
                )


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
