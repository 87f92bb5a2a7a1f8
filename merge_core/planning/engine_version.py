"""The version of the engine that a plan's bytes belong to.

It is part of a plan's digest, so results of before are found again as long as they would be the
same. Versions 5 to 7 changed bytes in rare cases only, which names, methods, headers and configs
tell apart: all other plans keep the version, the digest and the results that they had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.files.bounded_json import read_json
from merge_core.files.names import GENERATION_NAME
from merge_core.methods.base import Method
from merge_core.recipes.recipe import Recipe
from merge_core.tensors.dtypes import MERGEABLE
from merge_core.tensors.kinds import is_computed_buffer
from merge_core.tensors.names import kinds_of
from merge_core.tensors.wrapper_names import names_a_wrapper
from merge_core.tokenizers.merged import ID_LISTS
from merge_core.verification.tied_copies import could_hold_copies

ENGINE = "7"
"""Raised when some plan would give other bytes."""
_WITHOUT_DEEP_CONFIGS = "6"
_WITHOUT_WRAPPERS = "5"
_BEFORE = "4"
_FEW = 2
"""Models whose sum does not depend on their order, however it is computed."""


@dataclass(frozen=True)
class Peculiarities:
    """What headers and configs say of checkpoints that versions 5 to 7 treat otherwise."""

    buffers: bool = False
    """Some are stored in floating point, which are taken over and were averaged."""
    copies: bool = False
    """A head or an embedding may be a copy, which follows its original and had masks, filters and
    slices of its own."""
    wrappers: bool = False
    """Words of training wrappers are in tensors' names or in a class's, and are taken out."""
    parted: bool = False
    """An adapter made two tensors of head and embeddings, which the config called one."""
    deep: bool = False
    """Configs have parts with parts of their own, whose dtype and ids stayed what they were."""
    id_lists: bool = False
    """Their generation_config.json lists ids of tokens, which stayed what they were."""

    @classmethod
    def of(cls, checkpoints: Iterable[Checkpoint]) -> Peculiarities:
        """The peculiarities of several checkpoints together."""
        everyone = list(checkpoints)
        return cls(
            buffers=any(map(_has_buffers, everyone)),
            copies=any(map(could_hold_copies, everyone)),
            wrappers=any(each.wrapper or names_a_wrapper(each.config) for each in everyone),
            parted=any(each.parted for each in everyone),
            deep=any(map(_is_deep, everyone)),
            id_lists=any(map(_lists_ids, everyone)),
        )


def engine_of(recipe: Recipe, peculiar: Peculiarities) -> str:
    """The version whose bytes a recipe gives."""
    asks = recipe.vocabulary is not None
    if (
        peculiar.parted
        or (peculiar.deep and (asks or recipe.stored_dtype))
        or (peculiar.id_lists and asks)
    ):
        return ENGINE
    if peculiar.wrappers:
        return _WITHOUT_DEEP_CONFIGS
    everyone = (*recipe.recipes, recipe)
    changed = (
        peculiar.buffers
        or any(map(_elects_among_many, everyone))
        or (peculiar.copies and (len(everyone) > 1 or _goes_by_names(recipe)))
    )
    return _WITHOUT_WRAPPERS if changed else _BEFORE


def _elects_among_many(recipe: Recipe) -> bool:
    if not recipe.method.elects:
        return False
    return any(len(recipe.inputs(part)) > _FEW for part in recipe.parts)


def _goes_by_names(recipe: Recipe) -> bool:
    """Whether two tensors of equal values may come out otherwise."""
    method = recipe.method
    observes = type(method).model_statistics is not Method.model_statistics
    if recipe.slices or recipe.modules or recipe.exclude or method.random or observes:
        return True
    levels = [level for index in range(len(recipe.post)) for level in recipe.post_levels(index)]
    for part in recipe.parts:
        levels += [*(member.own for member in part.members), *recipe.levels(part)]
    return method.calibration is not None or any(
        _has_filters(value) for level in levels for value in level.values()
    )


def _has_filters(value: object) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value)


def _is_deep(checkpoint: Checkpoint) -> bool:
    return any(
        isinstance(inner, dict)
        for part in checkpoint.config.values()
        if isinstance(part, dict)
        for inner in part.values()
    )


def _lists_ids(checkpoint: Checkpoint) -> bool:
    path = checkpoint.directory / GENERATION_NAME
    return path.is_file() and any(key in read_json(path) for key in ID_LISTS)


def _has_buffers(checkpoint: Checkpoint) -> bool:
    kinds = dict(zip(kinds_of(checkpoint.tensors), checkpoint.tensors.values(), strict=True))
    return any(is_computed_buffer(kind) and it.dtype in MERGEABLE for kind, it in kinds.items())
