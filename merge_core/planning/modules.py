"""Modules of a checkpoint: which tensors a recipe's module names are about.

A module's name is found in a tensor's name as a run of whole segments: `vision_tower` is in
`model.vision_tower.patch.weight`, `vision` is not. `text_decoder` is mergekit's word for the
language model of a multimodal checkpoint; `default` is all that no other module covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from merge_core.errors import RecipeError

DEFAULT = "default"
_ALIASES = {"text_decoder": ("language_model", "text_model")}
_TEXT_HEADS = ("lm_head",)
"""Part of the text decoder also where it stands beside it, as transformers writes it since 5."""
_MANY = 12


def divided(names: Iterable[str], modules: Sequence[str], where: str) -> dict[str, list[str]]:
    """Tensor names by module, in their order.

    Raises:
        RecipeError: a name is in no module or in two; lists the prefixes that there are.
    """
    names = list(names)
    result: dict[str, list[str]] = {module: [] for module in modules}
    for name in names:
        found = [module for module in modules if module != DEFAULT and _covers(module, name)]
        if not found and DEFAULT in result:
            found = [DEFAULT]
        if len(found) != 1:
            what = f"in two modules: {' and '.join(found[:2])}" if found else "in no module"
            raise RecipeError(
                f"tensor {name} of '{where}' is {what}; its tensors are in {prefixes(names)}",
                where="modules",
                mend="name modules by segments of tensor names; 'default' takes all that is left",
            )
        result[found[0]].append(name)
    return result


def prefixes(names: Iterable[str]) -> str:
    """The first segments of tensor names, two where the first alone says little."""
    names = list(names)
    first = {name.partition(".")[0] for name in names}
    if len(first) <= 2:
        first = {".".join(name.split(".")[:2]) for name in names}
    shown = sorted(first)
    more = f" and {len(shown) - _MANY} more" if len(shown) > _MANY else ""
    return ", ".join(shown[:_MANY]) + more


def _covers(module: str, name: str) -> bool:
    if any(f".{path}." in f".{name}." for path in (module, *_ALIASES.get(module, ()))):
        return True
    return module in _ALIASES and name.partition(".")[0] in _TEXT_HEADS
