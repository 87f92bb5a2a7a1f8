"""Numbers of bytes as people write them: `5GB`, `500 MB`, `1GiB`, `1000000`."""

from __future__ import annotations

import re

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
