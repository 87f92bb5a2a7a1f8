"""Durations as people write them: `90s`, `30m`, `24h`, `7d`."""

from __future__ import annotations

import re

DURATION = r"\d{1,6}(\.\d{1,3})?[smhd]"
"""Pattern of one, for JSON schemas too."""

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NAMES = {"s": "s", "m": "min", "h": "h", "d": "d"}


def read_duration(text: str) -> float:
    """The number of seconds that a text says.

    Raises:
        ValueError: it says none.
    """
    if not re.fullmatch(DURATION, text.strip()):
        raise ValueError(f"'{text}' is no duration; write for example 30m, 24h or 7d")
    number, unit = text.strip()[:-1], text.strip()[-1]
    return float(number) * _SECONDS[unit]


def spell_duration(text: str) -> str:
    """The same for a sentence: `1 h`."""
    return f"{text.strip()[:-1]} {_NAMES[text.strip()[-1]]}"
