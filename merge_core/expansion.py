"""From a recipe to its output tensors: which input tensors make each, and at what depth it lies.

Whole models are combined tensor by tensor. Slices stack runs of layers: layer tensors are
renumbered, what comes before the layers (embeddings) is made as the first slice says, and what
comes after them (final norm, head) as the last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from merge_core.checkpoint import Checkpoint
from merge_core.errors import CompatibilityError, RecipeError
from merge_core.layers import depth_of, group_of, layer_counts, stack_of
from merge_core.recipe import Member, Part, Recipe
from merge_core.safetensors_header import TensorEntry

_MANY = 5


@dataclass(frozen=True, slots=True)
class Expansion:
    """One output tensor before it has a place: its parts of the inputs and where it lies."""

    name: str
    part: Part
    base: TensorEntry | None
    inputs: tuple[TensorEntry, ...]
    depth: float
    """From 0 to 1 within its model or slice, where gradients are read."""

    @property
    def pattern(self) -> TensorEntry:
        """The tensor that gives shape and stored dtype."""
        return self.base or self.inputs[0]


def expand(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> list[Expansion]:
    """Every output tensor, in an order that reads the donor's files from front to back.

    Raises:
        CompatibilityError: tensors that should be combined are missing or differ in shape.
        RecipeError: a slice names layers that a model does not have.
    """
    check_same_tensors(recipe, checkpoints)
    if recipe.slices:
        return _stacked(recipe, checkpoints)
    (part,) = recipe.parts
    names = _file_order(checkpoints[recipe.donor])
    counts = layer_counts(names)
    return [
        _expansion(recipe, checkpoints, part, name, [name] * len(part.members), name, depth)
        for name in names
        for depth in (depth_of(name, counts),)
    ]


def output_layers(recipe: Recipe) -> list[tuple[str, int]]:
    """For each output layer of a recipe with slices: the model and layer that lead it."""
    return [
        (part.members[0].model, layer)
        for part in recipe.parts
        for layer in range(*_range(part.members[0]))
    ]


def main_stack(checkpoint: Checkpoint) -> tuple[str, int]:
    """Prefix and number of layers of the stack that holds most tensors.

    Raises:
        RecipeError: the model has no numbered layers.
    """
    tensors = Counter(stack[0] for name in checkpoint.tensors if (stack := stack_of(name)))
    if not tensors:
        raise RecipeError(
            "this model has no numbered layers to stack", where=str(checkpoint.directory)
        )
    prefix = tensors.most_common(1)[0][0]
    return prefix, layer_counts(checkpoint.tensors)[prefix]


def check_same_tensors(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> None:
    """Refuse checkpoints whose tensors differ in name or shape from the donor's.

    For slices, whose models may have different numbers of layers, layers are compared as one.

    Raises:
        CompatibilityError: with the first few tensors that differ.
    """
    donor = _shapes(recipe, checkpoints[recipe.donor])
    for reference in recipe.references():
        shapes = _shapes(recipe, checkpoints[reference])
        problems = (
            [f"{name} is missing" for name in sorted(donor.keys() - shapes.keys())]
            + [f"{n} is not in {recipe.donor}" for n in sorted(shapes.keys() - donor.keys())]
            + [
                f"{name} is {list(shapes[name])}, not {list(donor[name])}"
                for name in sorted(donor.keys() & shapes.keys())
                if shapes[name] != donor[name]
            ]
        )
        if problems:
            more = f" and {len(problems) - _MANY} more" if len(problems) > _MANY else ""
            raise CompatibilityError(
                f"the tensors differ from those of {recipe.donor}:"
                f" {'; '.join(problems[:_MANY])}{more}",
                where=reference,
                mend="merge checkpoints of one architecture and one base only",
            )


def _shapes(recipe: Recipe, checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    if not recipe.slices:
        return {name: entry.shape for name, entry in checkpoint.tensors.items()}
    prefix, _ = main_stack(checkpoint)
    return {
        _moved(name, prefix, "*") if (stack_of(name) or ("",))[0] == prefix else name: entry.shape
        for name, entry in checkpoint.tensors.items()
    }


def _stacked(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> list[Expansion]:
    stacks = {reference: main_stack(checkpoint) for reference, checkpoint in checkpoints.items()}
    _check_ranges(recipe, stacks)
    prefix, _ = stacks[recipe.donor]
    first, last = recipe.parts[0], recipe.parts[-1]
    donor = _file_order(checkpoints[recipe.donor])
    outside = [name for name in donor if (stack_of(name) or ("",))[0] != prefix]
    before = [name for name in outside if group_of(name) == "embeddings"]
    after = [name for name in outside if name not in before]

    def whole(part: Part, name: str) -> Expansion:
        names = [name] * len(part.members)
        return _expansion(recipe, checkpoints, part, name, names, name, 0.0)

    result = [whole(first, name) for name in before]
    number = 0
    for part in recipe.parts:
        leader = part.members[0]
        start, end = _range(leader)
        names_by_layer = _layers(checkpoints[leader.model], stacks[leader.model][0])
        for step in range(end - start):
            depth = step / (end - start - 1) if end - start > 1 else 1.0
            for name in names_by_layer[start + step]:
                names = [
                    _moved(name, stacks[member.model][0], _range(member)[0] + step)
                    for member in part.members
                ]
                base = _base_layer(recipe, part, stacks, name, step)
                output = _moved(name, prefix, number)
                result.append(_expansion(recipe, checkpoints, part, output, names, base, depth))
            number += 1
    return result + [whole(last, name) for name in after]


def _expansion(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    part: Part,
    output: str,
    names: Sequence[str],
    base: str,
    depth: float,
) -> Expansion:
    chosen = recipe.inputs(part)
    inputs = tuple(
        checkpoints[member.model].tensors[name]
        for member, name in zip(part.members, names, strict=True)
        if member in chosen
    )
    origin = checkpoints[recipe.base_model].tensors[base] if recipe.base_model else None
    return Expansion(output, part, origin, inputs, depth)


def _base_layer(
    recipe: Recipe, part: Part, stacks: Mapping[str, tuple[str, int]], name: str, step: int
) -> str:
    """The base's tensor for a slice: of the range given for it, else of the first source's."""
    if recipe.base_model is None:
        return name
    listed = [member for member in part.members if member.model == recipe.base_model]
    start, _ = _range((listed or part.members)[0])
    prefix, layers = stacks[recipe.base_model]
    if start + step >= layers:
        raise RecipeError(
            f"the base has {layers} layers, layer {start + step} is not one of them",
            where=part.where,
            mend="list the base as a source with a layer_range of its own",
        )
    return _moved(name, prefix, start + step)


def _check_ranges(recipe: Recipe, stacks: Mapping[str, tuple[str, int]]) -> None:
    for part in recipe.parts:
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


def _layers(checkpoint: Checkpoint, prefix: str) -> dict[int, list[str]]:
    """Tensor names of each layer of a stack, in file order."""
    layers: dict[int, list[str]] = {}
    for name in _file_order(checkpoint):
        stack = stack_of(name)
        if stack and stack[0] == prefix:
            layers.setdefault(stack[1], []).append(name)
    return layers


def _moved(name: str, prefix: str, layer: int | str) -> str:
    """The name of the same tensor in another stack's layer."""
    stack = stack_of(name)
    assert stack is not None
    rest = name[len(stack[0]) + 1 :].partition(".")[2]
    return f"{prefix}.{layer}.{rest}"


def _file_order(checkpoint: Checkpoint) -> list[str]:
    entries = sorted(checkpoint.tensors.values(), key=lambda e: (e.path.name, e.offset))
    return [entry.name for entry in entries]
