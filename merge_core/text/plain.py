"""Text of strangers as it is shown: on one line, with nothing in it that a terminal would obey.

Names of files, models, tensors and tasks come from elsewhere. What cannot be seen of them is
written out as Python would write it (`\\n`, `\\x1b`, `\\u202e`): nothing is hidden, no line is
forged, and the name can be recognised. Letters of every language stay what they are.
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata

LONGEST = 4000
"""Characters: no path is longer than that, and no sentence of ours."""

_UNSEEN = re.compile(
    # Marks, letters and signs that are called printable and draw nothing.
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_MOST_MARKS = 3
"""Combining marks on one letter; more are for climbing into the lines above and below."""


def plain(text: object, limit: int | None = LONGEST) -> str:
    """A text on one line, for a terminal, a log or a tree; a long one without its middle."""
    whole = str(text)
    if limit is not None and len(whole) > 4 * limit:
        whole = whole[: 2 * limit] + whole[-2 * limit :]
    if not (whole.isascii() and whole.isprintable()):
        whole = _without_towers("".join(map(_seen, whole)))
    if limit is None or len(whole) <= limit:
        return whole
    head = (limit - 3) * 2 // 3
    return f"{whole[:head]}...{whole[head + 3 - limit :]}"


def plain_lines(text: str) -> str:
    """A text whose lines are ours, each of them plain."""
    return "\n".join(plain(line, None) for line in text.split("\n"))


def plain_log(name: str) -> logging.Logger:
    """The logger of this name; whoever writes to it, each of its records is plain and one line."""
    logger = logging.getLogger(name)
    if _make_plain not in logger.filters:
        logger.addFilter(_make_plain)
    return logger


def _make_plain(record: logging.LogRecord) -> bool:
    record.msg, record.args = plain(record.getMessage()), ()
    return True


def plain_json(text: str) -> str:
    """A JSON text that means the same and holds no character that a terminal would obey."""
    if text.isascii():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _seen(character: str) -> str:
    if unicodedata.category(character) == "Zs":
        return " "
    if character.isprintable() and not _UNSEEN.match(character):
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def _without_towers(text: str) -> str:
    kept: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        if marks <= _MOST_MARKS:
            kept.append(character)
    return "".join(kept)
