"""SHA256SUMS: the list of a checkpoint's files, in the one form that mergeflow writes.

`sha256sum -c` reads it. A list in any other form is refused, however it may be meant: of two ways
to read a line, `sha256sum` could take one and mergeflow the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SUMS_NAME = "SHA256SUMS"
MAX_SUMS_BYTES = 16 << 20
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n\r\0]+)")


def sums_text(digests: Mapping[str, str]) -> str:
    """The content of SHA256SUMS for the files of these names and digests."""
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(digests.items()))


def read_sums(content: bytes) -> dict[str, str]:
    """sha256 by name of each file that is listed.

    Raises:
        ValueError: the list is in another form than `sums_text` gives, or leads out of its
            directory.
    """
    text = content.decode()  # a UnicodeDecodeError is a ValueError
    found = {}
    for line in text.split("\n")[:-1]:
        match = _LINE.fullmatch(line)
        if match is None or not _is_below(match[2]):
            raise ValueError(f"the line {line[:120]!r} names no file of this directory")
        found[match[2]] = match[1]
    if sums_text(found) != text:
        raise ValueError("its lines are not sorted, not ended, or a file is listed twice")
    return found


def _is_below(name: str) -> bool:
    """Whether a name is that of a file below a directory, in its only spelling."""
    return not {"", ".", ".."} & set(name.split("/"))
