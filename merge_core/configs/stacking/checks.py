"""Whether the layers of a stack will be found by the names their numbers promise.

A model's class decides by number which tensors a layer has. Either the config's settings tell the
kinds of layers apart, and they were rewritten; or the layer at each number must have the names and
shapes that the donor has at that number. No architecture's name is needed for that.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from merge_core.configs.stacking.places import at, places
from merge_core.configs.stacking.restack import Stack, depth_of, type_of, uncounted
from merge_core.configs.stacking.told import told
from merge_core.errors import CompatibilityError
from merge_core.findings import some
from merge_core.tensors.inputs import TensorInput
from merge_core.tensors.names import stack_of

Names = frozenset[tuple[str, tuple[int, ...]]]
"""A layer's tensors: what follows the layer's number in their names, and their shapes."""
Tensors = Mapping[str, TensorInput]
_GROUPS = "num_hidden_groups"
"""Of ALBERT, whose layers share weights: how many have weights of their own."""


def check_stack(
    stack: Stack,
    configs: Mapping[str, Mapping[str, Any]],
    tensors: Mapping[str, Tensors],
    stacks: Mapping[str, tuple[str, int]],
) -> None:
    """Refuse a stack whose layers the result's config would not lead to.

    Args:
        configs: of every reference, as they are.
        tensors: of every reference, those of the module that is stacked.
        stacks: prefix and number of ordinary layers of every reference.

    Raises:
        CompatibilityError: the config contradicts the weights or counts no layers, or a layer
            comes to stand where the donor has one of other tensors.
    """
    if not configs[stack.donor]:
        return
    for reference, (_, layers) in stacks.items():
        stated = depth_of(configs[reference], stack.module) if configs[reference] else None
        if stated is not None and stated != layers and _GROUPS in configs[reference]:
            raise CompatibilityError(
                f"its {stated} layers share the weights of {layers}, so there are none to stack",
                where=reference,
                mend="list whole models under `models`, without slices",
            )
        if stated is not None and stated != layers:
            raise CompatibilityError(
                f"config.json says {stated} layers, the weights hold {layers}",
                where=reference,
                mend="put the config.json back that belongs to these weights",
            )
    prefix, depth = stacks[stack.leader]
    if not stack.moves(depth):
        return
    if depth_of(configs[stack.donor], stack.module) is None:
        raise uncounted(stack)
    _refuse_tensors_of_all_layers(stack, tensors[stack.leader], prefix)
    names = {
        reference: names_by_layer(tensors[reference], *stacks[reference])
        for reference in dict.fromkeys([stack.leader, *(name for name, _ in stack.layers)])
    }
    if not _are_told_apart(stack, configs, names):
        _check_places(stack, names)


def names_by_layer(tensors: Tensors, prefix: str, depth: int) -> list[Names]:
    """The tensors of each layer of a stack."""
    found: list[set[tuple[str, tuple[int, ...]]]] = [set() for _ in range(depth)]
    for name, tensor in tensors.items():
        place = stack_of(name)
        if place is not None and place[0] == prefix and place[1] < depth:
            found[place[1]].add((name[len(f"{prefix}.{place[1]}.") :], tensor.shape))
    return [frozenset(each) for each in found]


def _refuse_tensors_of_all_layers(stack: Stack, tensors: Tensors, prefix: str) -> None:
    """Refuse tensors that hold a part for each layer, such as Gemma's embeddings by layer."""
    of_all = [name for name in tensors if "per_layer" in name and not name.startswith(f"{prefix}.")]
    if of_all:
        raise CompatibilityError(
            f"{some(of_all)} holds a part for each layer, which slices do not take apart",
            where=stack.where,
            mend="choose ranges that leave every layer its number and the model its number of"
            " layers; or merge whole models",
        )


def _are_told_apart(
    stack: Stack,
    configs: Mapping[str, Mapping[str, Any]],
    layers: Mapping[str, Sequence[Names]],
) -> bool:
    """Whether settings explain which layer has which tensors: they were rewritten with the stack.

    Layers of which the settings say the same have the same tensors, in every model.
    """
    seen: dict[Hashable, Names] = {}
    for reference, own in layers.items():
        for said, names in zip(_said(configs, stack, reference, len(own)), own, strict=True):
            if seen.setdefault(said, names) != names:
                return False
    return True


def _said(
    configs: Mapping[str, Mapping[str, Any]], stack: Stack, reference: str, depth: int
) -> list[Hashable]:
    """All that a config says of each layer, as one value; the donor's where it has no config."""
    config = configs[reference] or configs[stack.donor]
    everything: dict[str, list[Any]] = {}
    for place in places(config, stack.module):
        settings = at(config, place.path)
        kinds = told(settings, depth, type_of(settings, config))
        everything |= {f"{place.shown}.{key}": value for key, value in kinds.items()}
    return [
        repr(sorted((key, repr(kinds[layer])) for key, kinds in everything.items()))
        for layer in range(depth)
    ]


def _check_places(stack: Stack, layers: Mapping[str, Sequence[Names]]) -> None:
    """Compare the layer at each number with the donor's at that number."""
    donor = layers[stack.leader]
    for number, (reference, layer) in enumerate(stack.layers):
        names = layers[reference][layer]
        expected = [donor[number]] if number < len(donor) else _continued(donor, number)
        if expected and all(names == each for each in expected):
            continue
        what = (
            _difference(names, expected[0])
            if expected
            else "config.json does not tell which kind of layer comes after the donor's last"
        )
        raise CompatibilityError(
            f"layer {layer} of '{reference}' would be layer {number}, where a model of this kind"
            f" has a layer of other tensors: {what}",
            where=stack.where,
            mend="choose ranges that leave each layer at a number where the donor has one of its"
            " kind",
        )


def _continued(donor: Sequence[Names], number: int) -> list[Names]:
    """What a layer after the donor's last may have to be: one for each way in which the donor's
    go on, all alike at the end or in a period that is seen twice."""
    ways = []
    alike = donor.count(donor[-1])
    if donor.index(donor[-1]) == len(donor) - alike and (alike > 1 or len(donor) == 1):
        ways.append(donor[-1])
    for period in range(2, len(donor) // 2 + 1):
        if all(donor[i] == donor[i - period] for i in range(period, len(donor))):
            ways.append(donor[number % period])
            break
    return ways


def _difference(names: Names, expected: Names) -> str:
    surplus, lacking = _only(names, expected), _only(expected, names)
    return "; ".join(
        [f"it has {some(surplus)}"] * bool(surplus) + [f"it lacks {some(lacking)}"] * bool(lacking)
    )


def _only(these: Names, those: Names) -> list[str]:
    return sorted(f"{name} {list(shape)}" for name, shape in these - those)
