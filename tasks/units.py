"""Durations and sizes as people write them, and moments as records do."""

from __future__ import annotations

import re
from datetime import UTC, datetime

DURATION = r"\d{1,6}(\.\d{1,3})?[smhd]"
"""Pattern of a duration (`90s`, `30m`, `24h`, `7d`), for JSON schemas too."""

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


_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def read_size(text: str) -> int:
    """The number of bytes that a text says.

    Raises:
        ValueError: it says none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]i?B|)\s*", text, re.IGNORECASE)
    if not match:
        raise ValueError(f"'{text}' is no size; write for example 5GB or 500MB")
    count = int(float(match[1]) * _UNITS[match[2].upper()])
    if count < 1:
        raise ValueError("a size is at least 1 byte")
    return count


def timestamp(when: datetime | None = None) -> str:
    """A moment as records have it, in ISO 8601 to the second; without one it is now, UTC."""
    return (when or datetime.now(UTC)).isoformat(timespec="seconds")
