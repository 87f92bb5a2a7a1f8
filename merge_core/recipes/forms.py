"""The forms that people give to recipes: read as what they mean, told what to write, or left out.

Recipes come from model cards of many years. What says the same in other words (a quoted number, a
flag of 1.0) becomes the one form that a recipe has here, so that equal recipes have equal digests.
What has no effect is left out and listed. What would be another merge is a problem with a hint.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from merge_core.errors import RecipeError
from merge_core.findings import printable
from merge_core.methods import METHODS, find_method
from merge_core.methods.base import Method
from merge_core.methods.parameter import Parameter
from merge_core.methods.post_steps import POST_STEPS
from merge_core.recipes.parameters import canonical_setting
from merge_core.recipes.parts import ModelEntry, Module, Slice, SliceSource

_FOR_PEOPLE = frozenset(
    (
        *("license", "license_name", "license_link", "tags", "description", "author", "authors"),
        *("language", "library_name", "pipeline_tag", "datasets", "version"),
    )
)
"""Top-level keys that speak of the result to people, as a model card's front matter does."""
_HIDDEN = ("x-", "X-", ".")
"""What the names of top-level keys begin with that only hold an anchor for others."""
_TAKEN = frozenset(parameter.name for method in METHODS.values() for parameter in method.parameters)
_ELSEWHERE = _TAKEN | {"smooth", "allow_negative_weights", "rescale_norm", "embed_slerp"}
"""Parameters of merge methods, here or in mergekit: one that a method lacks has no effect in it."""
_TOP_ONLY = (
    *("merge_method", "base_model", "dtype", "out_dtype", "tokenizer_source", "tokenizer"),
    *("chat_template", "seed", "exclude", "post", "calibration", "allow_unrelated"),
)
_OTHER_NAMES = {
    "random_seed": "seed",
    "torch_dtype": "dtype",
    "output_dtype": "out_dtype",
    "model_name": "name",
    "base": "base_model",
    "method": "merge_method",
}
_OF_A_COMMAND = frozenset(
    {
        *("cuda", "gpu", "multi_gpu", "lazy_unpickle", "low_cpu_memory", "allow_crimes", "quiet"),
        *("out_shard_size", "copy_tokenizer", "clone_tensors", "read_to_gpu", "write_model_card"),
        *("parallel", "multigpu", "num_threads", "verbose", "write_report", "device"),
        *("trust_remote_code", "lora_merge_cache", "transformers_cache", "safe_serialization"),
    }
)
"""Options of mergekit's commands, which people put into recipes."""
_ADAPTERS = ("lora", "adapter", "adapter_path", "peft")
_MIXTURE = ("experts", "gate_mode", "experts_per_token", "shared_experts")
_OF_EACH_MODEL = ("weights", "ratios", "coefficients", "densities")
_MOST_NESTED = 64


@dataclass
class Forms:
    """A recipe's document in the form that is validated, and what was found in it."""

    document: dict[str, Any]
    problems: list[RecipeError] = field(default_factory=list)
    """What is somewhere where it would be another merge, each with its YAML path and a hint."""
    idle: list[str] = field(default_factory=list)
    """YAML paths of parameters without effect, which were left out."""


def read_forms(document: Mapping[str, Any], known: Collection[str]) -> Forms:
    """A document with the forms that are understood in their own, and hints for those that are not.

    Args:
        known: keys that a recipe has at its top level.
    """
    forms = Forms(_own(document, _MOST_NESTED))
    top = forms.document
    for key in [key for key in top if isinstance(key, str) and _is_decoration(key, known)]:
        del top[key]
    _hint_at_keys(forms, top, "", known)
    _spell_models_out(top)
    _spell_references_alike(top)
    method = find_method(str(top.get("merge_method")))
    for place in _places(top):
        _hint_at_keys(forms, place.holder, place.where, place.known)
        if "parameters" in place.holder:
            if place.holder["parameters"] is None:
                place.holder["parameters"] = {}
            if isinstance(place.holder["parameters"], dict):
                _read_parameters(forms, place, method)
    _read_post(top)
    return forms


def _spell_models_out(top: dict[str, Any]) -> None:
    """A model that is listed by its name alone has no parameters of its own."""
    if isinstance(top.get("models"), list):
        top["models"] = [
            {"model": model} if isinstance(model, str) else model for model in top["models"]
        ]


@dataclass(frozen=True)
class _Place:
    """A mapping of a recipe that may hold parameters."""

    where: str
    """Its YAML path; "" at the top."""
    holder: dict[str, Any]
    known: Collection[str] = ()
    of_one_model: bool = False

    @property
    def settings(self) -> str:
        """YAML path of its parameters."""
        return f"{self.where}.parameters" if self.where else "parameters"


def _places(top: dict[str, Any]) -> Iterator[_Place]:
    """Everything that may have parameters, the recipe itself first."""
    yield _Place("", top, known=top)
    yield from _within(top, "")
    modules = top.get("modules")
    if isinstance(modules, dict):
        for name, module in modules.items():
            if isinstance(module, dict):
                yield _Place(f"modules.{name}", module, Module.model_fields)
                yield from _within(module, f"modules.{name}.")


def _within(holder: dict[str, Any], start: str) -> Iterator[_Place]:
    for where, entry in _entries(holder.get("models"), f"{start}models"):
        yield _Place(where, entry, ModelEntry.model_fields, of_one_model=True)
    for where, each in _entries(holder.get("slices"), f"{start}slices"):
        yield _Place(where, each, Slice.model_fields)
        for inner, source in _entries(each.get("sources"), f"{where}.sources"):
            yield _Place(inner, source, SliceSource.model_fields, of_one_model=True)


def _entries(value: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, list):
        for index, entry in enumerate(value):
            if isinstance(entry, dict):
                yield f"{where}[{index}]", entry


def _is_decoration(key: str, known: Collection[str]) -> bool:
    return key not in known and (key in _FOR_PEOPLE or key.startswith(_HIDDEN))


def _hint_at_keys(forms: Forms, holder: dict[str, Any], where: str, known: Collection[str]) -> None:
    """Take out the unknown keys of a mapping for which there is something better to say."""
    for key in [key for key in holder if isinstance(key, str) and key not in known]:
        hint = _hint(key, holder, where)
        if hint is not None:
            value = holder.pop(key)
            if key == "revision" and value is None:
                continue
            if key in _ELSEWHERE and isinstance(holder.setdefault("parameters", {}), dict):
                holder["parameters"].setdefault(key, value)  # or it would be missed there, too
            place = f"{where}.{key}" if where else key
            forms.problems.append(RecipeError(f"unknown key '{key}': {hint}", where=place))


def _hint(key: str, holder: Mapping[str, Any], where: str) -> str | None:
    """What to write in place of an unknown key; None where only its spelling can help."""
    if key in _OTHER_NAMES:
        right = _OTHER_NAMES[key]
        return f"write `{right}`" + (" at the top level" if where else "")
    if where and key == "merge_method":
        return (
            "a recipe has one, at the top level; to merge parts by several methods write several"
            " documents, of which later ones use earlier ones by name"
        )
    if where and key in _TOP_ONLY:
        return f"write `{key}` at the top level, beside merge_method"
    if key == "revision" and isinstance(holder.get("model"), str):
        name = f"{holder['model']}@{holder['revision']}"
        return f"write the revision after the name: `model: {printable(name)}`"
    if key in _OF_EACH_MODEL:
        return (
            "write each model's own beside it: `models: [{model: ..., parameters: {weight: ...,"
            " density: ...}}]`"
        )
    if key == "residual_weight":
        return (
            "this has no effect in mergekit and is not known here; to scale layers, write"
            " `parameters: {scale: ...}` at the source"
        )
    if key in _ADAPTERS and where:
        return "write the adapter after its base: `model: BASE+ADAPTER`"
    if key == "layer_range":
        return (
            "layer ranges stand at sources: `slices: [{sources: [{model: ..., layer_range: ...}]}]`"
        )
    if key in _MIXTURE:
        return "this is a recipe for a mixture of experts, which is no merge of weights"
    if key == "genome" and not where:
        return "this is a recipe for a search among merges; write the one merge that it found"
    if key in _OF_A_COMMAND and not where:
        return (
            "this is an option of another tool's command and says nothing of the merge: delete it"
        )
    if key in _ELSEWHERE:
        return f"write it under parameters: `parameters: {{{key}: ...}}`"
    return None


def _read_parameters(forms: Forms, place: _Place, method: Method | None) -> None:
    """Bring a mapping of parameters into its form, without those that have no effect."""
    settings: dict[str, Any] = place.holder["parameters"]
    table = {parameter.name: parameter for parameter in method.parameters} if method else {}
    for name in list(settings):
        where = f"{place.settings}.{name}"
        parameter = table.get(name)
        if parameter is not None:
            settings[name] = canonical_setting(parameter, settings[name])
            if place.of_one_model and not parameter.per_model:
                _read_misplaced(forms, settings, parameter, where)
        elif name in _TOP_ONLY or name in _OTHER_NAMES:
            right = _OTHER_NAMES.get(name, name)
            forms.problems.append(
                RecipeError(
                    f"'{name}' is no parameter of a method: write `{right}` at the top level,"
                    " beside merge_method",
                    where=where,
                )
            )
            del settings[name]
        elif method is not None and name in _ELSEWHERE:
            if name == "allow_negative_weights" and _forbids_negative(forms, settings[name]):
                forms.problems.append(
                    RecipeError(
                        f"{method.name} allows negative weights, and there are some",
                        where=where,
                        mend="delete it, or make the weights positive",
                    )
                )
            else:
                forms.idle.append(where)
            del settings[name]


def _read_misplaced(
    forms: Forms, settings: dict[str, Any], parameter: Parameter, where: str
) -> None:
    """What is set once for all models, at one of them: idle where it changes nothing."""
    above = forms.document.get("parameters")
    common = above.get(parameter.name) if isinstance(above, dict) else None
    if settings[parameter.name] == (parameter.default if common is None else common):
        forms.idle.append(where)
    else:
        forms.problems.append(
            RecipeError(
                f"'{parameter.name}' is set once for all models",
                where=where,
                mend=f"write it under the recipe's own parameters: `parameters:"
                f" {{{parameter.name}: ...}}`",
            )
        )
    del settings[parameter.name]


def _forbids_negative(forms: Forms, value: Any) -> bool:
    """Whether negative weights are forbidden that the recipe has."""
    if value not in (False, 0, "false"):
        return False
    settings = (place.holder.get("parameters") for place in _places(forms.document))
    return any(_has_negative(each.get("weight")) for each in settings if isinstance(each, dict))


def _has_negative(value: Any) -> bool:
    if isinstance(value, dict):
        return _has_negative(value.get("value"))
    if isinstance(value, list):
        return any(map(_has_negative, value))
    return isinstance(value, int | float) and value < 0


def _read_post(top: dict[str, Any]) -> None:
    """Bring the parameters of steps after the method into their form."""
    steps = top.get("post")
    for entry in steps if isinstance(steps, list) else ():
        for name, settings in entry.items() if isinstance(entry, dict) else ():
            step = POST_STEPS.get(str(name))
            if step is None or not isinstance(settings, dict):
                continue
            for parameter in step.parameters:
                if parameter.name in settings:
                    value = settings[parameter.name]
                    settings[parameter.name] = canonical_setting(parameter, value)


def _spell_references_alike(top: dict[str, Any]) -> None:
    """Give a directory that is written in several ways (`./base`, `./base/`) one spelling.

    The first one: a recipe that writes every name in one way keeps each as it is.
    """
    first: dict[str, str] = {}
    holders: list[tuple[dict[str, Any], str]] = [(top, "base_model"), (top, "tokenizer_source")]
    for place in _places(top):
        holders += [(place.holder, key) for key in ("base_model", "model")]
    if isinstance(top.get("tokenizer"), dict):
        holders.append((top["tokenizer"], "source"))
    for holder, key in holders:
        text = holder.get(key)
        if isinstance(text, str):
            holder[key] = first.setdefault(_plain_name(text), text)


def _plain_name(reference: str) -> str:
    """A reference without what does not change the directory that it names."""
    if reference.startswith("models:"):
        return reference
    return "+".join(map(_plain_path, reference.split("+")))


def _plain_path(path: str) -> str:
    if not path.startswith((".", "/", "~", "$")):
        return path.rstrip("/")
    plain = os.path.normpath(path)
    # `base` may be the name of an earlier recipe, which `./base` is not.
    return f"./{plain}" if path.startswith(".") and not plain.startswith(".") else plain


def _own(value: Any, depth: int) -> Any:
    """A copy in which nothing is shared: an anchor's value may stand for different things."""
    if depth and isinstance(value, Mapping):
        return {key: _own(item, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, list | tuple):
        return [_own(item, depth - 1) for item in value]
    return value
