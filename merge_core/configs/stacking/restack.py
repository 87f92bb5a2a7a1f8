"""Rewrite the parts of a config that are about a stack of layers, so that each layer of the result
keeps what was said of it where it came from; what cannot be said is refused, never guessed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from merge_core.configs.stacking.outputs import follow_outputs
from merge_core.configs.stacking.places import (
    Place,
    at,
    count_of,
    is_vision,
    places,
    with_both_counts,
)
from merge_core.configs.stacking.rules import (
    FULL,
    LAST_IS_FULL,
    LAYER_TYPES,
    RULES,
    Kinds,
)
from merge_core.configs.stacking.told import (
    computes_with_number,
    is_index_list,
    not_understood,
    told,
)
from merge_core.errors import CompatibilityError
from merge_core.findings import printable, some

Layer = tuple[str, int]
"""A layer of the result: the reference it comes from and its number there."""
_LISTED = ("layers_block_type", "layer_types", "hybrid_override_pattern")
"""Settings that say by their length how many layers there are, where no count does."""


class Stack(NamedTuple):
    """A module whose layers are stacked, and what its layers are made of."""

    module: str | None
    where: str
    """YAML path of its slices."""
    layers: Sequence[Layer]
    donor: str
    """The reference of the model whose config the result takes."""
    leader: str
    """The reference of the model that says which tensors there are."""

    def moves(self, depth: int) -> bool:
        """Whether some layer gets another number, or the donor's number of layers changes."""
        return len(self.layers) != depth or any(
            layer != number for number, (_, layer) in enumerate(self.layers)
        )


def stacked_config(
    config: Mapping[str, Any], stack: Stack, configs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """A donor's config with the layers of the result.

    Args:
        config: the donor's; empty where it has none.
        configs: of every reference of the stack.

    Raises:
        CompatibilityError: the config does not say how many layers there are, says something of
            a layer's number that is not understood, or cannot say what the layers are.
    """
    result = copy.deepcopy(dict(config))
    if not config:
        return result
    depth = depth_of(config, stack.module)
    if depth is None:
        if stack.moves(len(stack.layers)):
            raise uncounted(stack)
        return result  # layers at their numbers; whether some are left out, the weights tell
    if stack.moves(depth):
        result = dict(with_both_counts(result))
    for place in places(config, stack.module):
        settings: Any = at(result, place.path)
        counted = count_of(settings, place.counts)
        if counted is not None and counted[1] != depth:
            _refuse_other_count(place, counted, depth, stack)
            continue
        if stack.moves(depth):
            _refuse_unknown(place, settings, depth, config, stack)
        _rewrite(place, settings, depth, config, configs, stack)
    if stack.moves(depth) and is_vision(stack.module):
        layers = [layer for _, layer in stack.layers]
        follow_outputs(result, layers, depth, stack.where, stack.donor)
    return result


def uncounted(stack: Stack) -> CompatibilityError:
    """The error for a config that does not say how many layers there are."""
    return CompatibilityError(
        "config.json does not say how many layers it has, so the number of layers that are"
        " stacked cannot be written into it",
        where=stack.donor,
        mend="write its number of layers into config.json as num_hidden_layers",
    )


def depth_of(config: Mapping[str, Any], module: str | None) -> int | None:
    """How many layers a config says a stack has: the first count, else the length of a list."""
    config = with_both_counts(config)
    found = places(config, module)
    for place in found:
        counted = count_of(at(config, place.path), place.counts)
        if counted is not None:
            return counted[1]
    for place in found:
        settings = at(config, place.path)
        for key in _LISTED:
            listed = settings.get(key)
            if isinstance(listed, list | str) and listed:
                return len(listed)
    return None


def type_of(settings: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The model type that a part of a config is of."""
    return str(settings.get("model_type") or config.get("model_type") or "")


def _refuse_other_count(place: Place, counted: tuple[str, int], depth: int, stack: Stack) -> None:
    """Two numbers of layers for one stack; a part of another name may be about another stack."""
    if place.path in ((), ("text_config",)):
        key, value = counted
        raise CompatibilityError(
            f"{place.shown} says {key}: {value}, another part of it {depth} layers",
            where=stack.donor,
            mend="write the same number of layers into both",
        )


def _refuse_unknown(
    place: Place, settings: Mapping[str, Any], depth: int, config: Mapping[str, Any], stack: Stack
) -> None:
    model_type = type_of(settings, config)
    if computes_with_number(settings, model_type):
        raise CompatibilityError(
            f"the layers of a {printable(model_type, 40)} compute with their own number, so a layer"
            " that gets another number computes something else",
            where=stack.where,
            mend="choose ranges that leave every layer its number and the model its number of"
            " layers; or merge whole models",
        )
    unknown = sorted(set(not_understood(settings, depth, model_type)))
    if not unknown:
        return
    shown = some(f"{key}: {printable(settings.get(key), 40)}" for key in unknown)
    raise CompatibilityError(
        f"{place.shown} says {shown}, which may mean other layers once layers have moved, and it is"
        " not known here how",
        where=stack.donor,
        mend="load and save its config with the current transformers"
        " (AutoConfig.from_pretrained(DIR).save_pretrained(DIR)), which lists the kind of each"
        " layer where it knows the model; or, if all its layers are alike, take"
        f" {some(map(printable, unknown))} out of config.json for the merge, and put the same back"
        " into the result's config.json",
    )


def _rewrite(
    place: Place,
    settings: dict[str, Any],
    depth: int,
    config: Mapping[str, Any],
    configs: Mapping[str, Mapping[str, Any]],
    stack: Stack,
) -> None:
    model_type, count = type_of(settings, config), len(stack.layers)
    wanted = _wanted(place, settings, depth, config, configs, stack)
    for key in place.counts:
        if settings.get(key) == depth and not isinstance(settings[key], bool):
            settings[key] = count
    before = told(settings, count, model_type)
    for key, kinds in wanted.items():
        listed = settings.get(key)
        too_long = isinstance(listed, list) and len(listed) > count
        if before.get(key) == kinds and not (too_long and stack.moves(depth)):
            continue
        rule = next((rule for rule in RULES if rule.name == key), None)
        if rule is not None:
            rule.write(settings, kinds)
        elif is_index_list(key, listed):
            settings[key] = [number for number, kind in enumerate(kinds) if kind]
        elif isinstance(listed, dict):
            digits = len(str(count - 1))  # as transformers writes them, of one length
            single = enumerate(kinds)
            settings[key] = {str(i).zfill(digits): kind for i, kind in single if kind is not None}
        else:
            settings[key] = kinds
    made = told(settings, count, model_type)
    last = made.get(LAYER_TYPES, [FULL])[-1]
    if model_type in LAST_IS_FULL and last != FULL:
        raise CompatibilityError(
            f"the last layer would be one of {printable(last, 40)}, and a"
            f" {printable(model_type, 40)} computes its last layer with full attention, whatever"
            " config.json lists",
            where=stack.where,
            mend="end the stack with a layer of full attention",
        )
    for key, kinds in wanted.items():
        # A stack of one layer has lists of one item, which say nothing by their length.
        if made.get(key, kinds) != kinds:
            rule = next((rule for rule in RULES if rule.name == key), None)
            raise CompatibilityError(
                f"{place.shown} cannot say by {key} that the stacked layers are"
                f" {printable(kinds, 80)}",
                where=stack.where,
                mend=rule.mend if rule else "merge whole models",
            )


def _wanted(
    place: Place,
    settings: Mapping[str, Any],
    depth: int,
    config: Mapping[str, Any],
    configs: Mapping[str, Mapping[str, Any]],
    stack: Stack,
) -> dict[str, Kinds]:
    """For everything that is said of single layers, what it must be of the result's."""
    own = told(settings, depth, type_of(settings, config))
    sources = {}
    for reference in {reference for reference, _ in stack.layers}:
        theirs = at(configs.get(reference, {}), place.path)
        number = depth_of(configs.get(reference, {}), stack.module) or depth
        sources[reference] = theirs, told(theirs, number, type_of(theirs, configs[reference]))
    wanted = {
        key: [
            _of_layer(key, kinds, reference, layer, *sources[reference])
            for reference, layer in stack.layers
        ]
        for key, kinds in own.items()
    }
    for reference, (_, kinds) in sources.items():
        for key in kinds.keys() - own.keys():
            used = {repr(kinds[key][layer]) for other, layer in stack.layers if other == reference}
            if len(used) > 1:
                raise CompatibilityError(
                    f"its config says the {key} of each layer, that of {stack.donor} does not",
                    where=reference,
                    mend=f"give the config.json of {stack.donor} the list {key} too",
                )
    return wanted


def _of_layer(
    key: str,
    donors: Kinds,
    reference: str,
    layer: int,
    settings: Mapping[str, Any],
    kinds: Mapping[str, Kinds],
) -> Any:
    """What a model's config says of one of its layers; the donor's where it says nothing."""
    own = kinds.get(key)
    if own is None and settings.get(key) is None:
        own = donors
    if own is None or layer >= len(own):
        raise CompatibilityError(
            f"config.json does not say the {key} of layer {layer}",
            where=reference,
            mend=f"give it a list {key} with an item for each of its layers",
        )
    return own[layer]
