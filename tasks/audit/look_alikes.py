"""Names that a person takes for one of ours, and that mergeflow never gives."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from merge_core.findings import printable
from tasks.audit.report import Answers
from tasks.registry.client import TAG
from tasks.registry.versions import CHAMPION

_OUR_TAG = re.compile(r"mergeflow\.[a-z0-9_.]+")


def tags_of(tags: Mapping[str, str], whose: str, answers: Answers) -> None:
    """No tag looks like one of ours without being one."""
    for tag in sorted(tags):
        like = "".join(tag.split()).casefold()
        strange = not tag.isascii() or not tag.isprintable()
        if (strange or like.startswith("mergeflow")) and not _OUR_TAG.fullmatch(tag):
            answers.fails(
                f"{whose} has the tag {printable(repr(tag))}, which looks like one of ours"
            )


def known_tags(
    tags: Iterable[str], known: Collection[str], families: tuple[str, ...], whose: str, to: Answers
) -> None:
    """Every tag of ours is one that mergeflow gives.

    Args:
        known: their names, without the prefix.
        families: beginnings of names.
    """
    for tag in sorted(tags):
        name = tag.removeprefix(TAG)
        if _OUR_TAG.fullmatch(tag) and name not in known and not name.startswith(families):
            to.fails(f"{whose} has the tag {printable(tag)}, which mergeflow never gives")


def aliases(names: Iterable[str], answers: Answers) -> None:
    """No alias looks like the one that mergeflow moves; any other is its user's own."""
    for name in sorted(names):
        if name != CHAMPION and _looks_like_champion(name):
            answers.fails(
                f"the alias {printable(repr(name))} looks like {CHAMPION}, and is another"
            )


def _looks_like_champion(name: str) -> bool:
    """The same but for case, signs between and letters of another alphabet."""
    letters = [each for each in name.casefold() if each.isalpha()]
    if len(letters) != len(CHAMPION):
        return False
    pairs = list(zip(letters, CHAMPION, strict=True))
    same = sum(one == other for one, other in pairs)
    return same >= len(pairs) // 2 and all(
        one == other or not one.isascii() for one, other in pairs
    )
