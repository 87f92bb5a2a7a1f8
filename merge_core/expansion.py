"""From a recipe to its output tensors: which input tensors make each, and at what depth it lies.

Whole models are combined tensor by tensor. Slices stack runs of layers: layer tensors are
renumbered, what comes before the layers (embeddings) is made as the first slice says, and what
comes after them (final norm, head) as the last. Modules are each expanded on their own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, repeat
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from merge_core.checkpoint import Checkpoint
from merge_core.errors import CompatibilityError, RecipeError
from merge_core.inputs import TensorInput
from merge_core.layers import depths_of, group_of, layer_counts, stack_of
from merge_core.modules import divided, prefixes
from merge_core.recipe import Recipe
from merge_core.recipe_parts import Member, Part, Section
from merge_core.safetensors_header import TensorEntry
from merge_core.tensor_filters import matches

_MANY = 5
_STACK = re.compile(r"(^|\.)(layers?|h|(res)?blocks?)$")
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
        result += (_stacked if section.stacked else _whole)(recipe, section, tensors)
    twice = [name for name, count in Counter(each.name for each in result).items() if count > 1]
    if twice:
        raise RecipeError(f"two modules make the tensor {twice[0]}", where="modules")
    return result


def output_layers(section: Section) -> list[tuple[str, int]]:
    """For each output layer of a section of slices: the model and layer that lead it."""
    return [
        (part.members[0].model, layer)
        for part in section.parts
        for layer in range(*_range(part.members[0]))
    ]


def main_stack(names: Iterable[str], where: str) -> tuple[str, int]:
    """Prefix and number of layers of the model's layers, which slices are runs of.

    Other numbered things (a projector's matrices) do not count beside a stack that is called
    `layers`, `blocks` or `h`.

    Raises:
        RecipeError: there are no numbered layers, or several stacks of them (encoder and decoder,
            vision and language).
    """
    names = list(names)
    tensors = Counter(stack[0] for name in names if (stack := stack_of(name)))
    if not tensors:
        raise RecipeError("this model has no numbered layers to stack", where=where)
    called_so = sorted(prefix for prefix in tensors if _STACK.search(prefix))
    if len(called_so) > 1:
        raise RecipeError(
            f"this model has several stacks of layers, {', '.join(called_so)}, and slices alone do"
            " not say which one they are about",
            where=where,
            mend="write `modules`: slices for the module to stack, models for 'default'",
        )
    prefix = called_so[0] if called_so else tensors.most_common(1)[0][0]
    return prefix, layer_counts(names)[prefix]


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
    shapes = {}
    for name, entry in own.items():
        if prefix is not None and _is_in(name, prefix):
            shapes[_moved(name, prefix, "*")] = entry.shape
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


def _stacked(recipe: Recipe, section: Section, tensors: Mapping[str, _Tensors]) -> list[Expansion]:
    stacks = {reference: main_stack(own, reference) for reference, own in tensors.items()}
    _check_ranges(section, stacks)
    prefix, _ = stacks[section.leader]
    first, last = section.parts[0], section.parts[-1]
    outside = [name for name in tensors[section.leader] if not _is_in(name, prefix)]
    before = [name for name in outside if _is_before_layers(name)]
    after = [name for name in outside if name not in before]

    def whole(part: Part, name: str) -> Expansion:
        combined = _Combined(recipe, tensors, part)
        return combined.expansion(name, [name] * len(part.members), name, 0.0)

    result = [whole(first, name) for name in before]
    number = 0
    for part in section.parts:
        leader, combined = part.members[0], _Combined(recipe, tensors, part)
        start, end = _range(leader)
        names_by_layer = _layers(tensors[leader.model], stacks[leader.model][0])
        for step in range(end - start):
            depth = step / (end - start - 1) if end - start > 1 else 1.0
            for name in names_by_layer[start + step]:
                names = [
                    _moved(name, stacks[member.model][0], _range(member)[0] + step)
                    for member in part.members
                ]
                base = _base_layer(part, stacks, name, step)
                output = _moved(name, prefix, number)
                result.append(combined.expansion(output, names, base, depth))
            number += 1
    return result + [whole(last, name) for name in after]


class _Combined:
    """The models that one part of a recipe combines, each with its tensors."""

    def __init__(self, recipe: Recipe, tensors: Mapping[str, _Tensors], part: Part) -> None:
        self._recipe = recipe
        self._part = part
        self._base = tensors[part.base] if part.base else None
        self._first = tensors[part.members[0].model]
        chosen = recipe.inputs(part)
        self._chosen = [
            (index, tensors[member.model])
            for index, member in enumerate(part.members)
            if member in chosen
        ]

    def expansion(self, output: str, names: Sequence[str], base: str, depth: float) -> Expansion:
        """One output tensor from the tensors called `names` of the members, and the base's."""
        origin = self._base[base] if self._base is not None else None
        in_layers = stack_of(output) is not None
        if self._recipe.exclude and _is_kept(self._recipe, output):
            first = () if origin is not None else (self._first[names[0]],)
            return Expansion(output, self._part, origin, first, depth, in_layers, kept=True)
        inputs = tuple([tensors[names[index]] for index, tensors in self._chosen])
        return Expansion(output, self._part, origin, inputs, depth, in_layers)

    def expansions(self, names: Sequence[str], depths: Sequence[float | None]) -> list[Expansion]:
        """Output tensors that are called alike everywhere and none of which is excluded.

        Args:
            depths: one for each name; None outside the layers.
        """
        base = self._base
        bases = repeat(None) if base is None else map(base.__getitem__, names)
        columns = [map(tensors.__getitem__, names) for _, tensors in self._chosen]
        inputs = zip(*columns, strict=True) if columns else repeat(())
        return [
            Expansion(name, self._part, origin, sources, depth or 0.0, depth is not None)
            for name, origin, sources, depth in zip(names, bases, inputs, depths, strict=False)
        ]


def _is_kept(recipe: Recipe, name: str) -> bool:
    return any(matches(entry, name) for entry in recipe.exclude)


def _base_layer(part: Part, stacks: Mapping[str, tuple[str, int]], name: str, step: int) -> str:
    """The base's tensor for a slice: of the range given for it, else of the first source's."""
    if part.base is None:
        return name
    listed = [member for member in part.members if member.model == part.base]
    start, _ = _range((listed or part.members)[0])
    prefix, layers = stacks[part.base]
    if start + step >= layers:
        raise RecipeError(
            f"the base has {layers} layers, layer {start + step} is not one of them",
            where=part.where,
            mend="list the base as a source with a layer_range of its own",
        )
    return _moved(name, prefix, start + step)


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


def _layers(tensors: _Tensors, prefix: str) -> dict[int, list[str]]:
    """Tensor names of each layer of a stack, in file order."""
    layers: dict[int, list[str]] = {}
    for name in tensors:
        stack = stack_of(name)
        if stack and stack[0] == prefix:
            layers.setdefault(stack[1], []).append(name)
    return layers


def _is_before_layers(name: str) -> bool:
    """Whether a tensor outside the layers is of the embeddings, their norm included."""
    return group_of(name) == "embeddings" or (group_of(name) == "norms" and "embed" in name)


def _is_in(name: str, prefix: str) -> bool:
    """Whether a tensor belongs to a layer of the stack of this prefix."""
    stack = stack_of(name)
    return stack is not None and stack[0] == prefix


def _moved(name: str, prefix: str, layer: int | str) -> str:
    """The name of the same tensor in another stack's layer."""
    stack = stack_of(name)
    assert stack is not None
    rest = name[len(stack[0]) + 1 :].partition(".")[2]
    return f"{prefix}.{layer}.{rest}"


def _in_file_order(checkpoint: Checkpoint) -> dict[str, TensorInput]:
    """A checkpoint's tensors as they lie in its files; in its own order if some are not there."""
    stored = [each for each in checkpoint.tensors.values() if isinstance(each, TensorEntry)]
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
