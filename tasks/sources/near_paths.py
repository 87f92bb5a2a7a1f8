"""For a path that leads nowhere: the directory that was probably meant."""

from __future__ import annotations

import difflib
from pathlib import Path

_CUTOFF = 0.6
_MOST_LISTED = 6
_MOST_READ = 10_000


def nearest_directory(path: Path) -> Path | None:
    """The existing directory whose path differs from this one by a misspelt part or more.

    Args:
        path: absolute; of its parts, those that exist are taken as they are.
    """
    found = Path(path.anchor)
    for part in path.parts[1:]:
        if (found / part).is_dir():
            found /= part
            continue
        close = difflib.get_close_matches(part, _directories(found), n=1, cutoff=_CUTOFF)
        if not close:
            return None
        found /= close[0]
    return found if found != path else None


def neighbours(path: Path) -> str:
    """In words, what there is instead of a directory that does not exist; empty: nothing to say."""
    place = next((parent for parent in path.parents if parent.is_dir()), None)
    names = _directories(place) if place and place != Path(place.anchor) else []
    if not names:
        return ""
    more = len(names) - _MOST_LISTED
    listed = ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
    return f"{place} holds {listed}"


def _directories(place: Path) -> list[str]:
    names = []
    try:
        for count, entry in enumerate(place.iterdir()):
            if count == _MOST_READ:
                break
            if not entry.name.startswith(".") and entry.is_dir():
                names.append(entry.name)
    except OSError:
        return []
    return sorted(names)
