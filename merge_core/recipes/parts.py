"""What a recipe is made of: its models, slices and modules, and the common form of all three.

The entries are as the YAML has them; `Section`, `Part` and `Member` are what planning works with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_serializer, model_validator

from merge_core.errors import did_you_mean
from merge_core.recipes.parameters import Level
from merge_core.records import Record


def reference_text(value: Any) -> Any:
    """A reference as one text: mergekit also writes `{model: {path, revision}, lora: {...}}`."""
    if not isinstance(value, Mapping):
        return value
    _check_keys(value, ("model", "lora", "override_architecture"))
    if value.get("override_architecture") is not None:
        raise ValueError("override_architecture is not supported: tensors come from headers")
    parts = [_path_text(value.get("model"))]
    if value.get("lora") is not None:
        parts.append(_path_text(value["lora"]))
    return "+".join(parts)


def _path_text(value: Any) -> str:
    if isinstance(value, Mapping):
        _check_keys(value, ("path", "revision"))
        revision = value.get("revision")
        return _path_text(value.get("path")) + (f"@{revision}" if revision is not None else "")
    if not isinstance(value, str) or not value:
        raise ValueError("a reference is a text, or {model: {path: ..., revision: ...}}")
    return value


def _check_keys(value: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in value:
        if key not in known:
            raise ValueError(f"unknown key '{key}'; {did_you_mean(str(key), known)}")


Reference = Annotated[str, BeforeValidator(reference_text), Field(min_length=1)]
"""What names a checkpoint, or an earlier recipe."""


class ModelEntry(Record):
    """One model of a recipe with its own parameters."""

    model: Reference
    parameters: dict[str, Any] = Field(default_factory=dict)


class SliceSource(Record):
    """One model's share of a slice: layers from `layer_range[0]` up to, not including, `[1]`."""

    model: Reference
    layer_range: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]]
    parameters: dict[str, Any] = Field(default_factory=dict)


class Slice(Record):
    """A run of output layers, made of equally long runs of its sources' layers."""

    sources: tuple[SliceSource, ...] = Field(min_length=1)
    base_model: Reference | None = None
    """In place of the recipe's base, for this slice alone."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    residual_weight: None = None
    """A key of mergekit that it never reads."""

    @field_validator("residual_weight", mode="before")
    @classmethod
    def _refuse(cls, value: Any) -> None:
        if value is not None:
            raise ValueError("mergekit takes this key and ignores it; remove it")


class Module(Record):
    """One module of a checkpoint of several: what its tensors are made of."""

    models: tuple[ModelEntry, ...] = ()
    slices: tuple[Slice, ...] = ()
    parameters: dict[str, Any] = Field(default_factory=dict)


class PostEntry(Record):
    """One step on the merged task vector, after the method. In YAML `- STEP: {parameters}`."""

    step: str
    parameters: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, value: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping) or len(value) != 1:
            raise ValueError("a step is a mapping of one key: '- STEP: {}'")
        (step,) = value
        return {"step": step, "parameters": value[step] if value[step] is not None else {}}

    @model_serializer
    def _to_yaml(self) -> dict[str, Any]:
        return {self.step: self.parameters}


@dataclass(frozen=True)
class Member:
    """One model in one part of a recipe."""

    model: str
    own: Level
    """Parameters of its own."""
    layers: tuple[int, int] | None
    """The range of its layers that goes into a slice; None for the whole model."""


@dataclass(frozen=True)
class Part:
    """Models that are combined: of a whole recipe or module, or of one slice."""

    where: str
    """YAML path of its members."""
    base: str | None
    """What task vectors are differences from."""
    members: tuple[Member, ...]
    levels: tuple[Level, ...]
    """Parameters between the members' own and the recipe's: the slice's, the module's."""


@dataclass(frozen=True)
class Section:
    """A recipe is one section, or one for each module."""

    module: str | None
    where: str
    """YAML path that its keys follow: "" or `modules.NAME.`."""
    parts: tuple[Part, ...]
    """One part, or one for each slice."""
    stacked: bool
    """Whether the parts are slices."""

    @property
    def leader(self) -> str:
        """The reference that says which tensors there are: the base, else the first model."""
        return self.parts[0].base or self.parts[0].members[0].model


def section_of(
    where: str,
    module: str | None,
    models: tuple[ModelEntry, ...],
    slices: tuple[Slice, ...],
    base: str | None,
    levels: tuple[Level, ...],
) -> Section:
    """The common form of a list of models or slices.

    Args:
        where: YAML path that `models` and `slices` follow.
        levels: parameters above those of slices.
    """
    if not slices:
        members = tuple(
            Member(entry.model, Level(f"{where}models[{index}].parameters", entry.parameters), None)
            for index, entry in enumerate(models)
        )
        parts: tuple[Part, ...] = (Part(f"{where}models", base, members, levels),)
    else:
        parts = tuple(
            _slice_part(f"{where}slices[{index}]", each, base, levels)
            for index, each in enumerate(slices)
        )
    return Section(module, where, parts, bool(slices))


def _slice_part(where: str, each: Slice, base: str | None, levels: tuple[Level, ...]) -> Part:
    return Part(
        f"{where}.sources",
        each.base_model or base,
        tuple(
            Member(
                source.model,
                Level(f"{where}.sources[{index}].parameters", source.parameters),
                source.layer_range,
            )
            for index, source in enumerate(each.sources)
        ),
        (Level(f"{where}.parameters", each.parameters), *levels),
    )


class Calibration(Record):
    """The `calibration:` block of a recipe: a few samples of text, and how they are read."""

    data: str = Field(min_length=1)
    """A JSONL file; a path starts from the recipe's own directory."""
    field: str = Field(default="text", min_length=1)
    """The key of a line's text. A line with `prompt` and `completion` needs none."""
    samples: int = Field(default=64, ge=1, le=1 << 20)
    """How many lines are drawn."""
    max_length: int = Field(default=256, ge=2, le=1 << 20)
    """Tokens of a sample; the rest of it is cut off."""
    batch_size: int = Field(default=4, ge=1, le=1 << 12)
    """Samples that go through a model at once. Squared gradients are taken one sample at a time."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """Of the draw."""
