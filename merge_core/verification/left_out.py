"""Which part of a model some tensors are, and the line of a recipe that leaves them out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from merge_core.tensors.filters import matcher

_BLOCKS = (
    ("a block that predicts further tokens (MTP)", r"(^|\.)(mtp|nextn)|\.(eh_proj|enorm|hnorm)\."),
    ("a value head, as PPO trains one", r"(^|\.)(v_head|value_head)\."),
    (
        "the head of a classifier or reward model",
        r"(^|\.)(score|classifier|pre_classifier|qa_outputs|reward_head|regression_head)\.",
    ),
    ("an output head", r"(^|\.)([^.]*lm_head|embed_out)\."),
    ("a vision tower", r"(^|\.)(visual|vision[^.]*|image[^.]*)\."),
    ("an audio tower", r"(^|\.)(audio|speech)[^.]*\."),
    ("a pooler", r"(^|\.)pooler\."),
)
_MOST_PATTERNS = 6
_SPEAKABLE = re.compile(r"[\w.*-]+")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


def block_of(tensors: Iterable[str]) -> str | None:
    """What tensors are in words, e.g. `a value head`; None where their names do not tell.

    Of a numbered block one tensor that only such a block has is enough.
    """
    names = list(tensors)
    for words, pattern in _BLOCKS:
        found = re.compile(pattern)
        mine = {_stem(name) for name in names if found.search(name)}
        if mine and all(_stem(name) in mine or found.search(name) for name in names):
            return words
    return None


def exclude_line(lost: Sequence[str], others: Collection[str], already: bool = False) -> str | None:
    """The line of a recipe that leaves out exactly these tensors; None if it would be a long list.

    Args:
        lost: what only one of two models has.
        others: the tensors that both have, which are to be merged.
        already: whether the recipe has an `exclude` of its own.
    """
    if len(lost) > len(others):
        return None
    prefixes = {""}
    for name in others:
        parts = name.split(".")
        prefixes |= {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    folded = {_NUMBER.sub("*", prefix) for prefix in prefixes}
    patterns: dict[str, None] = {}
    for name in lost:
        own = _own_prefix(name, prefixes)
        wide = _NUMBER.sub("*", own)
        stem = own if wide in folded else wide
        patterns[stem if own == name else f"{stem}.*"] = None
        if len(patterns) > _MOST_PATTERNS or not _SPEAKABLE.fullmatch(stem):
            return None
    found = [matcher({"glob": pattern}) for pattern in patterns]
    if any(match(name) for match in found for name in others):
        return None
    listed = ", ".join(f'{{glob: "{pattern}"}}' for pattern in patterns)
    return f"add {listed} to `exclude`" if already else f"write `exclude: [{listed}]`"


def _own_prefix(name: str, prefixes: Collection[str]) -> str:
    """The shortest beginning of a name that no other tensor has."""
    parts = name.split(".")
    for count in range(1, len(parts)):
        prefix = ".".join(parts[:count])
        if prefix not in prefixes:
            return prefix
    return name


def _stem(name: str) -> str:
    """A layer's tensors have one stem: what stands up to the first number."""
    match = _NUMBER.search(name)
    return name[: match.end()] if match else name
