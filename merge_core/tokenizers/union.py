"""The result's vocabulary: which tokens it has, at which ids, and the ones that it was not born
with. Ids of the tokenizer that leads stay as they are; what others add follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from merge_core.errors import CheckpointError
from merge_core.findings import counted, some
from merge_core.tokenizers.tokenizer import Tokenizer

Flags = Mapping[str, bool]
PLAIN: Flags = {
    "special": False,
    "lstrip": False,
    "rstrip": False,
    "single_word": False,
    "normalized": True,
}
"""Flags of an added token about which nothing is known, as tokenizers has them."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that a model has a row for."""

    ids: Mapping[str, int]
    added: Mapping[str, Flags]
    """Flags of those tokens that are matched in the text before it is split."""
    rowless: tuple[str, ...] = ()
    """Tokens of its tokenizer whose ids lie beyond its rows."""

    @property
    def size(self) -> int:
        """The highest id plus one."""
        return max(self.ids.values(), default=-1) + 1


@dataclass(frozen=True)
class MergedVocabulary:
    """The result's tokens, and what distinguishes them from the leading tokenizer's."""

    ids: Mapping[str, int]
    new: Mapping[str, Flags | None]
    """Tokens that the leading tokenizer lacks, in order of their ids: with their flags where they
    are added tokens, with None where they are ordinary pieces."""

    @property
    def size(self) -> int:
        """The highest id plus one."""
        return max(self.ids.values(), default=-1) + 1


def vocabulary_of(tokenizer: Tokenizer, rows: int, where: str) -> Vocabulary:
    """The tokens of a tokenizer that a model of so many rows knows.

    Raises:
        CheckpointError: the tokenizer's files do not list its tokens, or two tokens share an id.
    """
    if tokenizer.origin != "tokenizer.json" or tokenizer.ids is None:
        raise CheckpointError(
            f"it has {tokenizer.origin} but no tokenizer.json, from which vocabularies are merged",
            where=where,
            mend="save the tokenizer again with transformers: AutoTokenizer.from_pretrained(DIR)"
            ".save_pretrained(DIR) writes tokenizer.json",
        )
    ids = {token: number for token, number in tokenizer.ids.items() if 0 <= number < rows}
    if len(set(ids.values())) < len(ids):
        seen: dict[int, str] = {}
        first, second = next(
            (seen[number], token)
            for token, number in ids.items()
            if seen.setdefault(number, token) != token
        )
        raise CheckpointError(
            f"its tokens {first!r} and {second!r} have the same id, {ids[first]}",
            where=where,
            mend="mend tokenizer.json: its vocabulary must give every token an id of its own",
        )
    added = {token: flags for token, flags in tokenizer.added.items() if token in ids}
    rowless = tuple(sorted(token for token in tokenizer.ids if token not in ids))
    return Vocabulary(ids, added, rowless)


def merged_vocabulary(
    leading: Vocabulary, others: Sequence[Vocabulary], extra: Iterable[str], *, union: bool
) -> MergedVocabulary:
    """The leading vocabulary; in a union with the others' missing tokens after it.

    Ids follow the order of the models, then their ids, so they depend on nothing else.

    Args:
        extra: tokens that the recipe names, which come last where nobody has them.
    """
    ids = dict(leading.ids)
    new: dict[str, Flags | None] = {}
    following = leading.size

    def append(token: str, flags: Flags | None) -> None:
        nonlocal following
        ids[token] = following
        new[token] = flags
        following += 1

    if union:
        for vocabulary in others:
            missing = [
                (number, token) for token, number in vocabulary.ids.items() if token not in ids
            ]
            for _, token in sorted(missing):
                append(token, _flags(token, others))
    for token in extra:
        if token not in ids:
            append(token, _flags(token, others) or PLAIN)
    return MergedVocabulary(ids, new)


@dataclass(frozen=True)
class Difference:
    """How one vocabulary differs from another that leads."""

    words: str
    """A sentence with counts and the first few tokens."""
    loses: bool
    """Whether tokens or their ids would be lost by taking the leading one for both."""


def difference(ours: Mapping[str, int], theirs: Mapping[str, int], other: str) -> Difference | None:
    """How a vocabulary differs from that of another model; None if it does not."""
    if ours == theirs:
        return None
    here = sorted((number, token) for token, number in ours.items() if token not in theirs)
    there = sorted((number, token) for token, number in theirs.items() if token not in ours)
    moved = sorted(
        (number, token) for token, number in ours.items() if theirs.get(token, number) != number
    )
    parts = []
    if here:
        shown = some(f"{token!r} (id {number})" for number, token in here)
        parts.append(f"{counted(len(here), 'token')} only here: {shown}")
    if there:
        shown = some(f"{token!r} (id {number})" for number, token in there)
        parts.append(f"{counted(len(there), 'token')} only in {other}: {shown}")
    if moved:
        shown = some(f"{token!r} is {number}, there {theirs[token]}" for number, token in moved)
        parts.append(f"{counted(len(moved), 'token')} with another id: {shown}")
    return Difference("; ".join(parts), bool(here or moved))


def _flags(token: str, vocabularies: Sequence[Vocabulary]) -> Flags | None:
    """How the first model that has a token treats it."""
    owner = next((each for each in vocabularies if token in each.ids), None)
    return owner.added.get(token) if owner else None
