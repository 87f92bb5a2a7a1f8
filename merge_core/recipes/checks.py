"""What a recipe must satisfy before it is planned.

Every problem is one error that names its YAML path and what would be right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from merge_core.errors import RecipeError, did_you_mean
from merge_core.methods import method_named
from merge_core.methods.parameter import Parameter, Scalar
from merge_core.methods.post_steps import post_step_named
from merge_core.recipes.calibration_check import check_calibration
from merge_core.recipes.chat_templates import check_chat_template
from merge_core.recipes.parameters import Level, resolve, setting_problems
from merge_core.recipes.parts import Part
from merge_core.recipes.several import place_of
from merge_core.recipes.tokenizer import UNION
from merge_core.tensors.dtypes import code_of
from merge_core.tensors.filters import FILTER_KEYS, check_filter, is_total

if TYPE_CHECKING:
    from merge_core.recipes.recipe import Recipe


def problems_of(recipe: Recipe) -> list[RecipeError]:
    """Everything for which a recipe does not mean anything; `where` is a path in the recipe."""
    found = _collected([partial(method_named, recipe.merge_method), partial(_check_forms, recipe)])
    if found:  # no parts to look at
        return found + _collected([partial(_check_dtypes, recipe)])
    method = recipe.method
    checks: list[Callable[[], object]] = [partial(_check_dtypes, recipe)]
    checks += [partial(_check_base, recipe, part) for part in recipe.parts]
    listed = recipe.direct_references()
    settings: list[RecipeError] = []
    for level in checked_levels(recipe):
        known = method.parameters if level.recipe_wide else method.per_model()
        settings += setting_problems(
            level.level, known, level.level.where, method=method.name, models=listed
        )
    for part in recipe.parts:
        checks.append(partial(_check_members, recipe, part))
        if not settings:
            checks.append(partial(_check_values, recipe, part))
    of_all = (_check_exclude, _check_post, _check_adapters, _check_tokenizer, check_calibration)
    checks += [partial(check, recipe) for check in of_all]
    return [*settings, *_collected(checks)]


def _collected(checks: Iterable[Callable[[], object]]) -> list[RecipeError]:
    """What some checks raise, each kind of problem once."""
    found: dict[str, RecipeError] = {}
    for check in checks:
        try:
            check()
        except RecipeError as problem:
            found.setdefault(str(problem), problem)
    return list(found.values())


def _check_dtypes(recipe: Recipe) -> None:
    for key in ("dtype", "out_dtype"):
        if getattr(recipe, key):
            code_of(getattr(recipe, key), key)


def _check_base(recipe: Recipe, part: Part) -> None:
    method = recipe.method
    if method.base == "required" and part.base is None:
        crowd = method.most_models == 1 and len(part.members) > 1
        raise RecipeError(
            f"{method.name} needs base_model: {method.base_role}",
            where="base_model",
            mend=f"name one of the {len(part.members)} models as base_model" if crowd else None,
        )


@dataclass(frozen=True)
class CheckedLevel:
    level: Level
    recipe_wide: bool
    """Whether parameters that are set once for all models may be here."""


def checked_levels(recipe: Recipe) -> list[CheckedLevel]:
    """Every `parameters:` mapping of a recipe, each once."""
    found: dict[str, CheckedLevel] = {}
    for part in recipe.parts:
        for member in part.members:
            found[member.own.where] = CheckedLevel(member.own, False)
        for level in recipe.levels(part):
            found[level.where] = CheckedLevel(level, True)
    return list(found.values())


def _check_forms(recipe: Recipe) -> None:
    """Exactly one of models, slices and modules, at the recipe and at each module."""
    if sum(map(bool, (recipe.models, recipe.slices, recipe.modules))) != 1:
        raise RecipeError(
            "list the models under models, or layers under slices, or modules under modules: one"
            " of the three",
            where="models",
            mend=_writing_out(recipe.base_model) if not recipe.models else None,
        )
    for name, module in recipe.modules.items():
        if bool(module.models) == bool(module.slices):
            raise RecipeError(
                "list the models under models, or layers under slices", where=f"modules.{name}"
            )
        if not all(name.split(".")):
            raise RecipeError(
                f"'{name}' is no part of tensor names: names between dots",
                where=f"modules.{name}",
            )


def _check_members(recipe: Recipe, part: Part) -> None:
    method = recipe.method
    seen: set[str] = set()
    for index, member in enumerate(part.members):
        is_origin = member.model == part.base and not method.base_is_input
        if member.model in seen and not is_origin:
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
        raise RecipeError(
            f"{method.name} needs {least}{besides}",
            where=part.where,
            mend=_writing_out(part.base) if besides else None,
        )
    needs_base = method.base == "required" and part.base is None
    if method.most_models is not None and count > method.most_models and not needs_base:
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


def _writing_out(base: str | None) -> str | None:
    """What to do for those who have a base and nothing to merge with it."""
    if base is None:
        return None
    if "+" in base:
        return (
            "to write a base with its adapter out as one checkpoint, use passthrough: list"
            f" '{base}' under models, without base_model"
        )
    return "list the fine-tunes of the base; to write out one model as it is, use passthrough"


def _check_values(recipe: Recipe, part: Part) -> None:
    """Refuse parameters that are not there, or that do not go together."""
    _check_required(recipe, part)
    _check_together(recipe, part)


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
        for member in part.members:
            if member in recipe.inputs(part) and not _given(name, [member.own]):
                raise RecipeError(
                    f"{method.name} needs '{name}' of '{member.model}': {parameter.help}",
                    where=f"{member.own.where}.{name}",
                    mend="set it here, or for all models under parameters",
                )


def _given(name: str, levels: Sequence[Mapping[str, Any]]) -> bool:
    """Whether some level has a value of a parameter for every tensor."""
    return any(name in level and _is_total(level[name]) for level in levels)


def _check_together(recipe: Recipe, part: Part) -> None:
    """Let the method look at its parameters, as far as they are the same for every tensor."""
    method = recipe.method
    per_model = [
        _constants(method.per_model(), recipe.levels(part, member))
        for member in recipe.inputs(part)
    ]
    overall = _constants(method.recipe_wide(), recipe.levels(part))
    constant = [values for values in per_model if values is not None]
    if overall is None or len(constant) < len(per_model):
        return
    try:
        method.check(constant, overall)
    except RecipeError as error:
        raise RecipeError(error.what, where=part.where, mend=error.mend) from None


def _constants(
    parameters: Sequence[Parameter], levels: Sequence[Level]
) -> dict[str, Scalar] | None:
    """The values of parameters if none of them depends on the tensor."""
    names = [parameter.name for parameter in parameters]
    if any(isinstance(level.get(name), list | tuple) for name in names for level in levels):
        return None
    return {parameter.name: resolve(parameter, levels, "", 0.0) for parameter in parameters}


def _check_exclude(recipe: Recipe) -> None:
    for index, entry in enumerate(recipe.exclude):
        place = f"exclude[{index}]"
        strangers = [str(key) for key in entry if key not in FILTER_KEYS]
        if strangers:
            raise RecipeError(
                f"unknown key '{strangers[0]}'; {did_you_mean(strangers[0], FILTER_KEYS)}",
                where=place,
            )
        check_filter(entry, place)
        if is_total(entry):
            raise RecipeError("this excludes every tensor; nothing would be merged", where=place)


def _check_post(recipe: Recipe) -> None:
    if recipe.post and any(part.base is None for part in recipe.parts):
        raise RecipeError(
            "post-steps work on the merged task vector, which needs base_model", where="post"
        )
    for index, entry in enumerate(recipe.post):
        (level,) = recipe.post_levels(index)
        step = post_step_named(entry.step, where=f"post[{index}]")
        problems = setting_problems(
            entry.parameters,
            step.parameters,
            level.where,
            method=step.name,
            models=recipe.direct_references(),
        )
        if problems:
            raise problems[0]
        for parameter in step.parameters:
            if parameter.default is None and not _given(parameter.name, [level]):
                raise RecipeError(
                    f"{step.name} needs '{parameter.name}': {parameter.help}",
                    where=f"{level.where}.{parameter.name}",
                )


def _check_adapters(recipe: Recipe) -> None:
    for reference in recipe.direct_references():
        name, plus, _ = reference.partition("+")
        if plus and recipe.recipe_named(name):
            raise RecipeError(
                f"an adapter cannot be applied to the result of the recipe '{name}'",
                where=place_of(recipe, reference),
                mend="apply it to a checkpoint, and use that in a recipe",
            )


def _check_tokenizer(recipe: Recipe) -> None:
    if recipe.tokenizer_source is not None and recipe.tokenizer is not None:
        raise RecipeError(
            "give either tokenizer_source or tokenizer",
            where="tokenizer_source",
            mend="tokenizer: {source: ...} says the same as tokenizer_source",
        )
    block = "tokenizer." if recipe.tokenizer else "tokenizer_"
    for place, reference in recipe.vocabulary.references() if recipe.vocabulary else ():
        known = recipe.direct_references() if place == "source" else recipe.references()
        if reference not in known:
            raise RecipeError(
                f"'{reference}' is not one of the checkpoints; {did_you_mean(reference, known)}",
                where=f"{block}{place}",
                mend="name one of them" + (", or base, or union" if place == "source" else ""),
            )
    if recipe.chat_template is not None:
        check_chat_template(recipe.chat_template)
    for earlier in recipe.recipes:
        for key in ("tokenizer", "chat_template"):
            if getattr(earlier, key) is not None or (
                key == "tokenizer" and earlier.tokenizer_source == UNION
            ):
                raise RecipeError(
                    f"{key}: only the last recipe of several decides on it, and it does not say"
                    " the same",
                    where=f"recipe {earlier.name}",
                    mend="say it there: all checkpoints get one vocabulary before anything is"
                    " merged",
                )


def _is_total(value: Any) -> bool:
    """Whether a setting has a value for every tensor."""
    if isinstance(value, list | tuple) and isinstance(value[0], Mapping):
        return any(is_total(entry) for entry in value)
    return True
