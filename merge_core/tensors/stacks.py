"""The stack of layers of a checkpoint that slices are runs of, read from its tensors' names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from merge_core.errors import RecipeError
from merge_core.findings import some
from merge_core.tensors.names import group_of, layer_counts, stack_of

_STACK = re.compile(r"(^|\.)(layers?|h|(res)?blocks?)$")


def main_stack(names: Iterable[str], where: str) -> tuple[str, int]:
    """Prefix and number of layers of the model's layers, which slices are runs of.

    Other numbered things (a projector's matrices) do not count beside a stack that is called
    `layers`, `blocks` or `h`.

    Raises:
        RecipeError: there are no numbered layers, or several stacks of them (encoder and decoder,
            vision and language), or lists of parts of them.
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
    counts = layer_counts(names)
    if called_so:
        return called_so[0], counts[called_so[0]]
    prefix = tensors.most_common(1)[0][0]
    _refuse_layers_in_parts(prefix, counts, where)
    return prefix, counts[prefix]


def _refuse_layers_in_parts(prefix: str, counts: Mapping[str, int], where: str) -> None:
    """Refuse a model that keeps the parts of its layers in lists of one length, as XLM does: to
    move the items of one list alone would leave the others behind."""
    parent = prefix.rpartition(".")[0]
    lists = sorted(
        each
        for each, count in counts.items()
        if count == counts[prefix] and each.rpartition(".")[0] == parent
    )
    if len(lists) > 1 and counts[prefix] > 1:
        raise RecipeError(
            f"the parts of this model's layers lie in several lists, {some(lists)}, which slices"
            " cannot move together",
            where=where,
            mend="merge whole models: write `models` in place of `slices`",
        )


def layers_of(names: Iterable[str], prefix: str) -> dict[int, list[str]]:
    """Tensor names of each layer of a stack, in file order."""
    layers: dict[int, list[str]] = {}
    for name in names:
        stack = stack_of(name)
        if stack and stack[0] == prefix:
            layers.setdefault(stack[1], []).append(name)
    return layers


def is_before_layers(name: str) -> bool:
    """Whether a tensor outside the layers is of the embeddings, their norm included."""
    return group_of(name) == "embeddings" or (group_of(name) == "norms" and "embed" in name)


def is_in(name: str, prefix: str) -> bool:
    """Whether a tensor belongs to a layer of the stack of this prefix."""
    stack = stack_of(name)
    return stack is not None and stack[0] == prefix


def moved(name: str, prefix: str, layer: int | str) -> str:
    """The name of the same tensor in another stack's layer."""
    stack = stack_of(name)
    assert stack is not None
    rest = name[len(stack[0]) + 1 :].partition(".")[2]
    return f"{prefix}.{layer}.{rest}"
