"""Recipes: a merge and nothing else, in mergekit's YAML.

Stricter than mergekit: unknown keys and parameters are errors with a "did you mean", all in one
message with their places; parameters without effect are a warning. Arithmetic is always float64;
`dtype` and `out_dtype` name what is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, WithJsonSchema, field_serializer, field_validator

from merge_core.errors import RecipeError
from merge_core.files.digests import digest_of
from merge_core.files.strict_yaml import dump_yaml
from merge_core.methods import method_named
from merge_core.methods.base import Method
from merge_core.recipes.parameters import Level
from merge_core.recipes.parts import (
    Calibration,
    Member,
    ModelEntry,
    Module,
    Part,
    PostEntry,
    Reference,
    Section,
    Slice,
    section_of,
)
from merge_core.recipes.tokenizer import BASE, UNION, TokenizerSettings
from merge_core.records import Record
from merge_core.tensors.dtypes import code_of

_OBJECTS = WithJsonSchema({"type": "array", "items": {"type": "object"}})
_FILTERS = WithJsonSchema({"type": "array", "items": {"type": ["string", "object"]}})


class Recipe(Record):
    """A checked merge recipe. Make one with `load_recipe` or `parse_recipe`."""

    merge_method: str
    base_model: Reference | None = None
    models: tuple[ModelEntry, ...] = ()
    slices: tuple[Slice, ...] = ()
    """In place of models: the result's layers, stacked from runs of layers (a frankenmerge)."""
    modules: dict[str, Module] = Field(default_factory=dict)
    """In place of models: what each module of a checkpoint of several is made of."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: Reference | None = None
    """`base`, `union`, or the reference of the model whose tokens the result has."""
    tokenizer: TokenizerSettings | None = None
    """In place of tokenizer_source: also where the rows of single tokens come from."""
    chat_template: str | None = None
    """`auto`, the name of a known template, or a template's text."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """Seed of the random methods."""
    exclude: Annotated[tuple[dict[str, Any], ...], _FILTERS] = ()
    """Filters of tensors that are taken from the base, or the first model, as they are."""
    post: Annotated[tuple[PostEntry, ...], _OBJECTS] = ()
    """Steps on the merged task vector, after the method."""
    calibration: Calibration | None = None
    """Data that the models are measured on, for the methods that need it."""
    recipes: Annotated[tuple[Recipe, ...], _OBJECTS] = ()
    """Earlier documents of the same file that this recipe uses by name, each before its use."""
    name: str | None = None
    allow_unrelated: bool = False
    """Merge checkpoints that share no origin too: whoever says so knows that they do not."""
    _idle: tuple[str, ...] = PrivateAttr(default=())

    @field_validator("exclude", mode="before")
    @classmethod
    def _words_are_filters(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return [{"filter": item} if isinstance(item, str) else item for item in value]

    @field_serializer("recipes")
    def _without_repetition(self, recipes: tuple[Recipe, ...]) -> list[dict[str, Any]]:
        return [each.model_dump(exclude={"recipes"}, exclude_defaults=True) for each in recipes]

    @property
    def method(self) -> Method:
        """The merge method."""
        return method_named(self.merge_method)

    @property
    def digest(self) -> str:
        """sha256 of the recipe's meaning: its canonical JSON without the name and empty fields."""
        return digest_of(self.model_dump(exclude={"name"}, exclude_defaults=True))

    def to_yaml(self) -> str:
        """The recipe as a file that `load_recipe` reads: one document for each recipe in it."""
        content = self.model_dump(exclude={"name"}, exclude_defaults=True)
        earlier = [{"name": each["name"]} | each for each in content.pop("recipes", ())]
        return dump_yaml([*earlier, content])

    @property
    def sections(self) -> tuple[Section, ...]:
        """The recipe in its common form, modules in the order of their names."""
        if not self.modules:
            return (section_of("", None, self.models, self.slices, self.base_model, ()),)
        return tuple(
            section_of(
                f"modules.{name}.",
                name,
                module.models,
                module.slices,
                self.base_model,
                (Level(f"modules.{name}.parameters", module.parameters),),
            )
            for name, module in sorted(self.modules.items())
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of all sections."""
        return tuple(part for section in self.sections for part in section.parts)

    def inputs(self, part: Part) -> tuple[Member, ...]:
        """The models that a part combines: a listed base only where the method takes it as one."""
        if self.method.base_is_input:
            return part.members
        return tuple(member for member in part.members if member.model != part.base)

    def input_references(self) -> list[str]:
        """Every checkpoint, or recipe by its name, that is combined in some part, each once."""
        listed = [member.model for part in self.parts for member in self.inputs(part)]
        return list(dict.fromkeys(listed))

    @property
    def allows_unrelated(self) -> bool:
        """Whether this recipe, or one that it uses, says that unrelated checkpoints are meant."""
        return any(each.allow_unrelated for each in (*self.recipes, self))

    @property
    def mixes_weights(self) -> bool:
        """Whether some tensor is made from more than one checkpoint: not so in a plain stack."""
        return any(
            (each.base_model is not None and not each.method.base_is_input)
            or any(len(each.inputs(part)) > 1 for part in each.parts)
            or bool(each.post)
            for each in (*self.recipes, self)
        )

    @property
    def stored_dtype(self) -> str | None:
        """Safetensors code of the dtype to store, or None to keep each tensor's own."""
        name = self.out_dtype or self.dtype
        return code_of(name, "out_dtype" if self.out_dtype else "dtype") if name else None

    @property
    def base_checkpoint(self) -> str | None:
        """The base, where it is a checkpoint rather than another recipe's result."""
        return None if self.base_model and self.recipe_named(self.base_model) else self.base_model

    @property
    def donor(self) -> str:
        """The checkpoint that config and layout come from: the base's, else the first model's."""
        return self.references()[0]

    @property
    def vocabulary(self) -> TokenizerSettings | None:
        """What the recipe says about the result's tokens, in either form; None if nothing."""
        if self.tokenizer_source is not None:
            return TokenizerSettings(source=self.tokenizer_source)
        return self.tokenizer

    @property
    def tokenizer_donor(self) -> str:
        """The checkpoint that tokenizer and chat template come from."""
        source = self.vocabulary.source if self.vocabulary else BASE
        if source in (BASE, UNION):
            source = self.direct_references()[0]
        earlier = self.recipe_named(str(source))
        return earlier.tokenizer_donor if earlier else str(source)

    def references(self) -> list[str]:
        """Every checkpoint that must be read, the donor first, each once."""
        found: dict[str, None] = {}
        self._gather(self.direct_references(), set(), found)
        return list(found)

    def direct_references(self) -> list[str]:
        """What this recipe itself names, checkpoints and recipes: the base first, each once."""
        named = [
            reference
            for part in self.parts
            for reference in (part.base, *(member.model for member in part.members))
        ]
        return list(dict.fromkeys(each for each in (self.base_model, *named) if each is not None))

    def recipe_named(self, name: str) -> Recipe | None:
        """The earlier recipe of this name. A name goes before a directory that is called so."""
        return next((each for each in self.recipes if each.name == name), None)

    def levels(self, part: Part, member: Member | None = None) -> list[Level]:
        """Where a parameter is looked up, the most specific first."""
        own = [member.own] if member else []
        return [*own, *part.levels, Level("parameters", self.parameters)]

    def post_levels(self, index: int) -> list[Level]:
        """Where a parameter of a post-step is looked up."""
        entry = self.post[index]
        return [Level(f"post[{index}].{entry.step}", entry.parameters)]

    def refuse_idle_settings(self, where: str) -> None:
        """For those who want no parameter in a recipe that its method does not take.

        Raises:
            RecipeError: there are some; the message names all of them.
        """
        for text in self.idle_settings():
            raise RecipeError(text, where=where)

    def note_idle(self, places: Iterable[str]) -> None:
        """Remember parameters that were written and have no effect, by their YAML paths."""
        self._idle = tuple(places)

    def idle_settings(self) -> list[str]:
        """One sentence about all parameters that were written, and have no effect."""
        places = [
            (each, f"recipe {each.name}: {place}" if each is not self else place)
            for each in (*self.recipes, self)
            for place in each._idle
        ]
        if not places:
            return []
        methods = {each.merge_method: each.method for each, _ in places}
        taken = "; ".join(f"{name} takes {_listed(method)}" for name, method in methods.items())
        listed = ", ".join(place for _, place in places)
        verb = (
            "has no effect here; delete it"
            if len(places) == 1
            else ("each has no effect here; delete it")
        )
        return [f"{listed}: {verb} ({taken})"]

    def _gather(self, references: Sequence[str], seen: set[str], found: dict[str, None]) -> None:
        for reference in references:
            earlier = self.recipe_named(reference)
            if earlier is None:
                found[reference] = None
            elif reference not in seen:
                seen.add(reference)
                self._gather(earlier.direct_references(), seen, found)


def _listed(method: Method) -> str:
    names = [parameter.name for parameter in method.parameters]
    return ", ".join(names) if names else "no parameters"
