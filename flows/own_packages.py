"""Whether the packages that are imported are ours.

`tasks` and `flows` are names that others use as well. Where a package of another distribution is
found before ours, the first thing to say is that, before its first import fails in some other way.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

_PLACE = Path(__file__).resolve().parent.parent
"""The directory that holds this package, and the others beside it."""

MEND = (
    "take that directory, or the empty entry that stands for the current one, out of PYTHONPATH;"
    " or uninstall the package that it belongs to; or install mergeflow into a virtual environment"
    " of its own"
)


def hidden(name: str) -> str | None:
    """What is found in place of our package of this name; None when it is ours."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return f"mergeflow's own package `{name}` is missing from {str(_PLACE)!r}"
    places = list(spec.submodule_search_locations or [spec.origin or ""])
    if [Path(place).resolve() for place in places] == [_PLACE / name]:
        return None
    return f"mergeflow's own package `{name}` is hidden by {places[0]!r}"


def refuse_foreign_packages() -> None:
    """Say which package hides one of ours, and end this program.

    Raises:
        SystemExit: with the message; Python prints it and exits with status 1.
    """
    for name in ("merge_core", "tasks"):
        found = hidden(name)
        if found:
            raise SystemExit(f"error: {found}\n  what to do: {MEND}")
