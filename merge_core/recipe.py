"""Recipes: a merge and nothing else, in mergekit's YAML.

Stricter than mergekit: unknown keys and parameters are errors with a "did you mean", all in one
message with their places; parameters without effect are a warning. Arithmetic is always float64;
`dtype` and `out_dtype` name what is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, WithJsonSchema, field_serializer, field_validator

from merge_core.calibration import Calibration
from merge_core.errors import RecipeError
from merge_core.files.digests import digest_of
from merge_core.files.strict_yaml import all_of, dump_yaml, examined, load_yaml_documents
from merge_core.methods import method_named
from merge_core.methods.base import Method
from merge_core.parameters import Level
from merge_core.recipe_checks import agreeing, check_name, problems_of, warnings_of
from merge_core.recipe_forms import Forms, read_forms
from merge_core.recipe_parts import (
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
from merge_core.records import Record
from merge_core.tensors.dtypes import code_of
from merge_core.vocabulary.settings import BASE, UNION, TokenizerSettings

_MOST_DOCUMENTS = 64
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

    def warnings(self) -> list[str]:
        """What is allowed but often a mistake, in words."""
        earlier = [
            f"recipe {each.name}: {text}" for each in self.recipes for text in warnings_of(each)
        ]
        return [*self._idle_settings(), *earlier, *warnings_of(self)]

    def refuse_idle_settings(self, where: str) -> None:
        """For those who want no parameter in a recipe that its method does not take.

        Raises:
            RecipeError: there are some; the message names all of them.
        """
        for text in self._idle_settings():
            raise RecipeError(text, where=where)

    def _idle_settings(self) -> list[str]:
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


def load_recipe(path: Path) -> Recipe:
    """A recipe from a YAML file; of several documents the last one, with the others in it.

    Raises:
        RecipeError: unreadable, not YAML, or not a meaningful recipe.
    """
    return _from_documents(load_yaml_documents(path), str(path))


def parse_recipe(value: str | Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from YAML text or from a mapping, checked against its method.

    Raises:
        RecipeError: every problem names its YAML path and what would be right.
    """
    if isinstance(value, str):
        return _from_documents(load_yaml_documents(value, where), where)
    return _from_mapping(value, where)


def _from_documents(documents: Sequence[dict[str, Any]], where: str) -> Recipe:
    if len(documents) == 1:
        return _from_mapping(documents[0], where)
    places = [f"{where}: document {index + 1}" for index in range(len(documents))]
    return _linked(documents, places, where)


def _from_mapping(value: Mapping[str, Any], where: str) -> Recipe:
    earlier = value.get("recipes") or ()
    if not isinstance(earlier, list | tuple) or not all(isinstance(e, Mapping) for e in earlier):
        raise RecipeError("recipes: must be a list of recipes", where=where)
    last = {key: item for key, item in value.items() if key != "recipes"}
    places = [f"{where}: recipes[{index}]" for index in range(len(earlier))]
    return _linked([*earlier, last], [*places, where], where)


def _linked(documents: Sequence[Mapping[str, Any]], places: Sequence[str], where: str) -> Recipe:
    """Check recipes in their order and give each one those before it that it needs."""
    if len(documents) > _MOST_DOCUMENTS:
        raise RecipeError(f"a recipe has at most {_MOST_DOCUMENTS} documents", where=where)
    for document, place in zip(documents, places, strict=True):
        if document.get("recipes"):
            raise RecipeError(
                "recipes: list them in one place, as documents of the file or in the last recipe",
                where=place,
            )
    forms = [read_forms(document, Recipe.model_fields) for document in documents]
    several = len(forms) > 1
    problems: list[list[str]] = []
    recipes: list[Recipe] = []
    for each, place in zip(forms, places, strict=True):
        recipe, found = _as_recipe(each)
        problems += [_placed(said, place) if several else said for said in found]
        if recipe is not None:
            recipes.append(recipe)
    if len(recipes) < len(forms):
        raise all_of(problems, where)
    recipes = [*(agreeing(each, recipes[-1]) for each in recipes[:-1]), recipes[-1]]
    earlier: dict[str, Recipe] = {}
    for index, (recipe, place) in enumerate(zip(recipes, places, strict=True)):
        if several:
            with _at(place):
                check_name(recipe, [each.name for each in recipes], index)
        linked = recipe.model_copy(update={"recipes": _needed(recipe, earlier)})
        found_here = problems_of(linked)
        if not problems and len(found_here) == 1:
            with _at(place):
                raise found_here[0]
        told = map(_in_a_list, found_here)
        problems += [_placed(said, place) if several else said for said in told]
        if index < len(recipes) - 1:
            earlier[str(linked.name)] = linked
    if problems:
        raise all_of(problems, where)
    for name, place in zip(earlier, places, strict=False):
        if linked.recipe_named(name) is None:
            raise RecipeError(
                f"the recipe '{name}' is not used by any later one",
                where=place,
                mend="name it as a model or base_model, or remove it",
            )
    return linked


def _as_recipe(forms: Forms) -> tuple[Recipe | None, list[list[str]]]:
    """A document as a recipe, as far as it is one, and what is wrong with it so far."""
    recipe, problems = examined(Recipe, forms.document)
    if recipe is not None:
        recipe._idle = tuple(forms.idle)
    return recipe, [*map(_in_a_list, forms.problems), *problems]


def _in_a_list(problem: RecipeError) -> list[str]:
    """A problem as one of several, in lines."""
    head = f"{problem.where}: {problem.what}" if problem.where else problem.what
    return [f"{head}; {problem.mend}" if problem.mend else head, *problem.details]


def _placed(said: list[str], place: str) -> list[str]:
    return [f"{place}: {said[0]}", *said[1:]]


def _listed(method: Method) -> str:
    names = [parameter.name for parameter in method.parameters]
    return ", ".join(names) if names else "no parameters"


def _needed(recipe: Recipe, earlier: Mapping[str, Recipe]) -> tuple[Recipe, ...]:
    """The earlier recipes that one uses, itself or through others, in their order.

    One that an adapter is to be applied to is used, too: why it cannot be is said of that use.
    """
    named = recipe.direct_references()
    used = {each for name in named for each in (name, name.partition("+")[0]) if each in earlier}
    used |= {str(each.name) for name in used for each in earlier[name].recipes}
    return tuple(each for name, each in earlier.items() if name in used)


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Put a place before that of every error."""
    try:
        yield
    except RecipeError as error:
        place = f"{where}: {error.where}" if error.where else where
        raise RecipeError(error.what, where=place, mend=error.mend, details=error.details) from None
