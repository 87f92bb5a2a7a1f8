"""From a recipe to its output tensors: which input tensors make each, and at what depth it lies.

Whole models are combined tensor by tensor. Slices stack runs of layers: layer tensors are
renumbered, what comes before the layers (embeddings) is made as the first slice says, and what
comes after them (final norm, head) as the last. Modules are each expanded on their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby, repeat
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.configs.stacking import Stack, check_stack, ordinary_layers, side_of
from merge_core.errors import CompatibilityError, RecipeError
from merge_core.planning.likeness import check_alike, missing, named_sources
from merge_core.planning.modules import divided, prefixes
from merge_core.recipes.parts import Member, Part, Section
from merge_core.recipes.recipe import Recipe
from merge_core.tensors.dtypes import MERGEABLE
from merge_core.tensors.filters import matches
from merge_core.tensors.inputs import TensorInput
from merge_core.tensors.names import depths_of, stack_of
from merge_core.tensors.safetensors_header import TensorEntry
from merge_core.tensors.stacks import is_before_layers, is_in, layers_of, main_stack, moved

_MANY = 5
_Tensors = Mapping[str, TensorInput]
"""Tensors of one checkpoint, or of one module of it, by name in file order."""


class Expansion(NamedTuple):
    """One output tensor before it has a place: its parts of the inputs and where it lies."""

    name: str
    part: Part
    base: TensorInput | None
    inputs: tuple[TensorInput, ...]
    """One for each combined model; of a tensor that is kept without a base, the first model's."""
    depth: float
    """From 0 to 1 within its model or slice, where gradients are read."""
    in_layers: bool
    """Whether it is part of a numbered layer."""
    kept: bool = False
    """Taken over from the base, or the first model, unmerged."""

    @property
    def pattern(self) -> TensorInput:
        """The tensor that gives shape and stored dtype."""
        return self.base or self.inputs[0]


def expand(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> list[Expansion]:
    """Every output tensor, in an order that reads the donor's files from front to back.

    Args:
        checkpoints: one for each of `recipe.direct_references()`.

    Raises:
        CompatibilityError: tensors that should be combined are missing or differ in shape.
        RecipeError: a slice names layers that a model does not have; modules that do not divide a
            checkpoint.
    """
    result: list[Expansion] = []
    for section, tensors in _sections(recipe, checkpoints):
        _check_same(recipe, section, tensors)
        if section.stacked:
            result += _stacked(recipe, section, tensors, checkpoints)
        else:
            result += _whole(recipe, section, tensors)
    twice = [name for name, count in Counter(each.name for each in result).items() if count > 1]
    if twice:
        raise RecipeError(f"two modules make the tensor {twice[0]}", where="modules")
    return result


def stack_in(section: Section, donor: str, checkpoints: Mapping[str, Checkpoint]) -> Stack:
    """What the layers of a section of slices are made of.

    Args:
        donor: reference of the model whose config the result takes.
    """
    module = section.module
    if module is None:
        prefix, _ = main_stack(checkpoints[section.leader].tensors, section.leader)
        module = side_of(prefix, checkpoints[donor].config)
    layers = tuple(output_layers(section))
    return Stack(module, f"{section.where}slices", layers, donor, section.leader)


def output_layers(section: Section) -> list[tuple[str, int]]:
    """For each output layer of a section of slices: the model and layer that lead it."""
    return [
        (part.members[0].model, layer)
        for part in section.parts
        for layer in range(*_range(part.members[0]))
    ]


def _sections(
    recipe: Recipe, checkpoints: Mapping[str, Checkpoint]
) -> list[tuple[Section, dict[str, _Tensors]]]:
    """Each section with the tensors of its models and base that it is about."""
    whole = {name: _in_file_order(checkpoints[name]) for name in recipe.direct_references()}
    modules = tuple(recipe.modules)
    names = {each: divided(whole[each], modules, each) for each in whole} if modules else {}
    result: list[tuple[Section, dict[str, _Tensors]]] = []
    for section in recipe.sections:
        if section.module is None:
            result.append((section, dict(whole)))
            continue
        if not names[section.leader][section.module]:
            raise RecipeError(
                f"no tensor of '{section.leader}' is in this module; its tensors are in"
                f" {prefixes(whole[section.leader])}",
                where=f"modules.{section.module}",
                mend="name modules by segments of tensor names",
            )
        result.append(
            (
                section,
                {
                    reference: {
                        name: whole[reference][name] for name in names[reference][section.module]
                    }
                    for reference in _references(section)
                },
            )
        )
    return result


def _references(section: Section) -> list[str]:
    """The leader, then everything else that a section names."""
    named = [
        reference
        for part in section.parts
        for reference in (part.base, *(member.model for member in part.members))
        if reference is not None
    ]
    return list(dict.fromkeys([section.leader, *named]))


def _check_same(recipe: Recipe, section: Section, tensors: Mapping[str, _Tensors]) -> None:
    """Refuse checkpoints whose tensors differ in name or shape from the leader's.

    For slices, whose models may have different numbers of layers, layers are compared as one.
    Excluded tensors may differ: nothing but the leader's is used.
    """
    leader = _shapes(recipe, section, tensors, section.leader)
    for reference in _references(section)[1:]:
        shapes = _shapes(recipe, section, tensors, reference)
        if shapes == leader:
            continue
        problems = (
            [f"{name} is missing" for name in sorted(leader.keys() - shapes.keys())]
            + [f"{n} is not in {section.leader}" for n in sorted(shapes.keys() - leader.keys())]
            + [
                f"{name} is {list(shapes[name])}, not {list(leader[name])}"
                for name in sorted(leader.keys() & shapes.keys())
                if shapes[name] != leader[name]
            ]
        )
        if problems:
            more = f" and {len(problems) - _MANY} more" if len(problems) > _MANY else ""
            raise CompatibilityError(
                f"the tensors differ from those of {section.leader}:"
                f" {'; '.join(problems[:_MANY])}{more}",
                where=reference,
                mend="merge checkpoints of one architecture and one base only",
            )


def _shapes(
    recipe: Recipe, section: Section, tensors: Mapping[str, _Tensors], reference: str
) -> dict[str, tuple[int, ...]]:
    own = tensors[reference]
    if not section.stacked and not recipe.exclude:
        return dict(zip(own, map(attrgetter("shape"), own.values()), strict=True))
    prefix = main_stack(own, reference)[0] if section.stacked else None
    shapes: dict[str, tuple[int, ...]] = {}
    for name, entry in own.items():
        if prefix is not None and is_in(name, prefix):
            folded = moved(name, prefix, "*")
            shapes[folded] = max(shapes.get(folded, entry.shape), entry.shape)
        elif not _is_kept(recipe, name):
            shapes[name] = entry.shape
    return shapes


def _whole(recipe: Recipe, section: Section, tensors: Mapping[str, _Tensors]) -> list[Expansion]:
    (part,) = section.parts
    names = list(tensors[section.leader])
    depths = depths_of(names)
    combined = _Combined(recipe, tensors, part)
    if recipe.exclude:
        return [
            combined.expansion(name, [name] * len(part.members), name, depth or 0.0)
            for name, depth in zip(names, depths, strict=True)
        ]
    return combined.expansions(names, depths)


def _stacked(
    recipe: Recipe,
    section: Section,
    tensors: Mapping[str, _Tensors],
    checkpoints: Mapping[str, Checkpoint],
) -> list[Expansion]:
    references = recipe.direct_references()
    configs = {reference: checkpoints[reference].config for reference in references}
    stacks = {}
    for reference, own in tensors.items():
        prefix, layers = main_stack(own, reference)
        stacks[reference] = prefix, ordinary_layers(configs[reference], layers)
    _check_ranges(section, stacks)
    prefix, _ = stacks[section.leader]
    first, last = section.parts[0], section.parts[-1]
    outside = [name for name in tensors[section.leader] if not is_in(name, prefix)]
    before = [name for name in outside if is_before_layers(name)]
    after = [name for name in outside if name not in before]

    def whole(part: Part, name: str) -> Expansion:
        combined = _Combined(recipe, tensors, part)
        return combined.expansion(name, [name] * len(part.members), name, 0.0)

    result = [whole(first, name) for name in before]
    number = 0
    for part in section.parts:
        leader, combined = part.members[0], _Combined(recipe, tensors, part)
        start, end = _range(leader)
        names_by_layer = layers_of(tensors[leader.model], stacks[leader.model][0])
        for step in range(end - start):
            depth = step / (end - start - 1) if end - start > 1 else 1.0
            for name in names_by_layer.get(start + step, []):
                names = [
                    moved(name, stacks[member.model][0], _range(member)[0] + step)
                    for member in part.members
                ]
                base = _base_layer(part, stacks, name, step)
                output = moved(name, prefix, number)
                result.append(combined.expansion(output, names, base, depth))
            combined.check_surplus(prefix, number, step, stacks)
            number += 1
    result += [whole(last, name) for name in after]
    check_stack(stack_in(section, references[0], checkpoints), configs, tensors, stacks)
    return result


class _Combined:
    """The models that one part of a recipe combines, each with its tensors."""

    def __init__(self, recipe: Recipe, tensors: Mapping[str, _Tensors], part: Part) -> None:
        self._recipe = recipe
        self._part = part
        self._tensors = tensors
        self._by_layer: dict[tuple[str, str], dict[int, list[str]]] = {}
        self._base = tensors[part.base] if part.base else None
        self._first = tensors[part.members[0].model]
        chosen = recipe.inputs(part)
        self._chosen = [
            (index, member.model, tensors[member.model])
            for index, member in enumerate(part.members)
            if member in chosen
        ]

    def expansion(self, output: str, names: Sequence[str], base: str, depth: float) -> Expansion:
        """One output tensor from the tensors called `names` of the members, and the base's."""
        in_layers = stack_of(output) is not None
        if self._recipe.exclude and _is_kept(self._recipe, output):
            origin = self._base.get(base) if self._base is not None else None
            first = () if origin is not None else (self._first[names[0]],)
            return Expansion(output, self._part, origin, first, depth, in_layers, kept=True)
        wanted = [(self._part.base, base)] if self._part.base is not None else []
        wanted += [(model, names[index]) for index, model, _ in self._chosen]
        sources = named_sources(output, wanted, self._tensors, self._part.where)
        check_alike(output, sources, self._part.where)
        made = tuple([tensor for _, tensor in sources])
        has_base = self._part.base is not None
        origin, inputs = (made[0], made[1:]) if has_base else (None, made)
        return Expansion(output, self._part, origin, inputs, depth, in_layers)

    def check_surplus(
        self, prefix: str, number: int, step: int, stacks: Mapping[str, tuple[str, int]]
    ) -> None:
        """Refuse a layer that has tensors which the layer it is merged with has not.

        Raises:
            CompatibilityError: names the first of them.
        """
        leader = self._part.members[0]
        own = self._layer(leader.model, stacks, _range(leader)[0] + step)
        others = [(member.model, _range(member)[0] + step) for member in self._part.members[1:]]
        if self._part.base is not None:
            others.append((self._part.base, _base_range(self._part)[0] + step))
        for reference, layer in others:
            for rest, name in sorted(self._layer(reference, stacks, layer).items()):
                output = f"{prefix}.{number}.{rest}"
                if rest not in own and not _is_kept(self._recipe, output):
                    lacking = moved(name, stacks[leader.model][0], _range(leader)[0] + step)
                    raise missing(output, leader.model, lacking, reference, self._part.where)

    def _layer(
        self, reference: str, stacks: Mapping[str, tuple[str, int]], layer: int
    ) -> dict[str, str]:
        """Names of a layer's tensors by what follows the layer's number in them."""
        prefix = stacks[reference][0]
        key = reference, prefix
        if key not in self._by_layer:
            self._by_layer[key] = layers_of(self._tensors[reference], prefix)
        start = len(f"{prefix}.{layer}.")
        return {name[start:]: name for name in self._by_layer[key].get(layer, [])}

    def expansions(self, names: Sequence[str], depths: Sequence[float | None]) -> list[Expansion]:
        """Output tensors that have one name in all models, and that no filter excludes.

        Args:
            depths: one for each name; None outside the layers.
        """
        base = self._base
        bases = repeat(None) if base is None else map(base.__getitem__, names)
        columns = [map(tensors.__getitem__, names) for _, _, tensors in self._chosen]
        inputs = zip(*columns, strict=True) if columns else repeat(())
        result = [
            Expansion(name, self._part, origin, sources, depth or 0.0, depth is not None)
            for name, origin, sources, depth in zip(names, bases, inputs, depths, strict=False)
        ]
        references = [name for name in (self._part.base,) if name is not None]
        references += [model for _, model, _ in self._chosen]
        for each in result:
            made = each.inputs if each.base is None else (each.base, *each.inputs)
            if any((other.dtype in MERGEABLE) != (made[0].dtype in MERGEABLE) for other in made):
                sources = list(zip(references, made, strict=True))
                check_alike(each.name, sources, self._part.where)
        return result


def _is_kept(recipe: Recipe, name: str) -> bool:
    return any(matches(entry, name) for entry in recipe.exclude)


def _base_layer(part: Part, stacks: Mapping[str, tuple[str, int]], name: str, step: int) -> str:
    """The base's tensor for a slice: of the range given for it, else of the first source's."""
    if part.base is None:
        return name
    start, _ = _base_range(part)
    prefix, layers = stacks[part.base]
    if start + step >= layers:
        raise RecipeError(
            f"the base has {layers} layers, layer {start + step} is not one of them",
            where=part.where,
            mend="list the base as a source with a layer_range of its own",
        )
    return moved(name, prefix, start + step)


def _base_range(part: Part) -> tuple[int, int]:
    """The range that is listed for the base of a slice, else that of its first source."""
    listed = [member for member in part.members if member.model == part.base]
    return _range((listed or part.members)[0])


def _check_ranges(section: Section, stacks: Mapping[str, tuple[str, int]]) -> None:
    for part in section.parts:
        for index, member in enumerate(part.members):
            _, layers = stacks[member.model]
            if member.layers and member.layers[1] > layers:
                raise RecipeError(
                    f"'{member.model}' has {layers} layers; layer_range {list(member.layers)}"
                    " goes beyond them",
                    where=f"{part.where}[{index}].layer_range",
                )


def _range(member: Member) -> tuple[int, int]:
    assert member.layers is not None
    return member.layers


def _in_file_order(checkpoint: Checkpoint) -> dict[str, TensorInput]:
    """A checkpoint's tensors as they lie in its files; in its own order if some are not there."""
    stored = [each.stored for each in checkpoint.tensors.values() if each.stored]
    if len(stored) < len(checkpoint.tensors):
        return dict(checkpoint.tensors)
    files: dict[Path, list[TensorEntry]] = {}
    for path, run in groupby(stored, key=attrgetter("path")):  # neighbours by name mostly share it
        files.setdefault(path, []).extend(run)
    return {
        entry.name: entry
        for path in sorted(files, key=attrgetter("name"))
        for entry in sorted(files[path], key=attrgetter("offset"))
    }
