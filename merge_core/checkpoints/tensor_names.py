"""Names under which wrappers, classes and versions of a library save the same tensors.

torch.compile, FSDP and DataParallel put words of their own into every name, a class with a head
puts a prefix before the model's own, and transformers renamed the parts of multimodal models. Where
one renaming alone makes two checkpoints' names agree, they are read under the same names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.findings import some
from merge_core.tensors.names import kinds_of

K = TypeVar("K")
Renaming = tuple[tuple[str, str], ...]
"""Prefixes and what takes their place; the first that a name begins with decides."""

MULTIMODAL: tuple[Renaming, ...] = (
    (
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.", ""),
    ),
    (("model.language_model.", "model."), ("model.visual.", "visual.")),
    (
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
        ("", "model."),
    ),
    (("visual.", "model.visual."), ("model.", "model.language_model.")),
)
"""Prefixes of multimodal checkpoints, old and new, both ways."""
_SPELLINGS = (
    (".LayerNorm.gamma", ".LayerNorm.weight"),
    (".LayerNorm.beta", ".LayerNorm.bias"),
    (".weight_g", ".parametrizations.weight.original0"),
    (".weight_v", ".parametrizations.weight.original1"),
)
"""Ends of names, as older and newer versions of a library have them."""
_MOST_PREFIXES = 16
"""First words of a checkpoint's names; an honest one has few."""


def renamed(name: str, renaming: Renaming) -> str:
    """A name with its prefix replaced."""
    for old, new in renaming:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def prefixes_of(names: Collection[str]) -> list[str]:
    """The first words of names, each with its dot."""
    return [f"{first}." for first in sorted({name.partition(".")[0] for name in names})]


def new_names(pattern: Collection[str], names: Collection[str]) -> dict[str, str]:
    """For names that `pattern` does not have: what they are called there.

    Empty where nothing has to be renamed. Ends of names are respelled first, then prefixes mapped.
    """
    if set(names) <= set(pattern):
        return {}
    spelled = _respelled(pattern, names)
    read = [spelled.get(name, name) for name in names]
    moved = _moved(pattern, read)
    new = {name: moved.get(now, now) for name, now in zip(names, read, strict=True)}
    return {name: now for name, now in new.items() if name != now}


def _respelled(pattern: Collection[str], names: Collection[str]) -> dict[str, str]:
    """New names for those whose end the pattern spells otherwise, everywhere."""
    new: dict[str, str] = {}
    for pair in _SPELLINGS:
        for old, now in (pair, pair[::-1]):
            if any(each.endswith(now) for each in pattern) and not any(
                each.endswith(old) for each in pattern
            ):
                new |= {name: name.removesuffix(old) + now for name in names if name.endswith(old)}
    return {} if set(new.values()) & set(names) else new


def _moved(pattern: Collection[str], names: Collection[str]) -> dict[str, str]:
    """New names where one renaming of prefixes explains what the pattern does not have.

    Empty where nothing has to be renamed, where no renaming makes at least half of the pattern's
    names of them, or where several do it differently. Layers are compared as one, since models may
    have different numbers of them.
    """
    known = set(kinds_of(pattern))
    kinds = dict(zip(names, kinds_of(names), strict=True))
    strange = [name for name, kind in kinds.items() if kind not in known]
    if not strange:
        return {}
    present = set(kinds.values()) & known
    found: list[dict[str, str]] = []
    for renaming in _renamings(pattern, strange):
        new = [renamed(name, renaming) for name in strange]
        fits = {
            name: (other, kind)
            for name, other, kind in zip(strange, new, kinds_of(new), strict=True)
            if kind in known and kind not in present
        }
        changed = {name: other for name, (other, _) in fits.items()}
        reached = len(present | {kind for _, kind in fits.values()})
        if len(set(changed.values())) == len(changed) and 2 * reached >= len(known):
            found.append(changed)
    most = max(map(len, found), default=0)
    best = [changed for changed in found if len(changed) == most]
    return best[0] if most and all(changed == best[0] for changed in best) else {}


def named_alike(checkpoints: Mapping[K, Checkpoint], first: K) -> dict[K, Checkpoint]:
    """Checkpoints whose tensors are called as those of the first, where only that differs.

    Args:
        first: key of the checkpoint whose names the others get.
    """
    pattern = checkpoints[first]
    return {key: named_as(pattern, each) for key, each in checkpoints.items()}


def named_as(pattern: Checkpoint, checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint with the names that another gives the same tensors; the model type is equal."""
    if not of_one_type(pattern.config, checkpoint.config):
        return checkpoint
    new = new_names(pattern.tensors, checkpoint.tensors)
    if not new:
        return checkpoint
    tensors = {
        new.get(name, name): it.called(new[name]) if name in new else it
        for name, it in checkpoint.tensors.items()
    }
    return replace(checkpoint, tensors=MappingProxyType(tensors))


def of_one_type(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configs can be of one model type: both say the same, or one says nothing."""
    ours, theirs = one.get("model_type"), other.get("model_type")
    return ours is None or theirs is None or ours == theirs


def prefix_words(new: Mapping[str, str]) -> str:
    """In words, what became of names: `visual.* is read as model.visual.*`."""
    pairs: dict[tuple[str, str], None] = {}
    for before, after in new.items():
        old, now = before.split("."), after.split(".")
        while len(old) > 1 and now and old[-1] == now[-1]:
            old.pop()
            now.pop()
        pairs[".".join((*old, "*")), ".".join((*now, "*"))] = None
    return some(f"{old} is read as {now}" for old, now in pairs)


def _renamings(pattern: Collection[str], names: Sequence[str]) -> Iterator[Renaming]:
    ours, theirs = prefixes_of(pattern), prefixes_of(names)
    if len(theirs) <= _MOST_PREFIXES:
        for first in theirs:
            yield ((first, ""),)
    if len(ours) <= _MOST_PREFIXES:
        for first in ours:
            yield (("", first),)
    yield from MULTIMODAL
