"""For the name of a file that is not there: the one beside it that was probably meant."""

from __future__ import annotations

import difflib
from itertools import islice
from pathlib import Path

_CUTOFF = 0.6
_MOST_READ = 10_000
_YAML = {".yaml", ".yml"}


def nearest_file(path: Path) -> Path | None:
    """The file of the same kind in that directory whose name is most like this one, if any is."""
    kinds = _YAML if path.suffix in {"", *_YAML} else {path.suffix}
    names = []
    try:
        for entry in islice(path.parent.iterdir(), _MOST_READ):
            if entry.suffix in kinds and not entry.name.startswith(".") and entry.is_file():
                names.append(entry.name)
    except OSError:
        return None
    close = difflib.get_close_matches(path.name, sorted(names), n=1, cutoff=_CUTOFF)
    return path.with_name(close[0]) if close else None
