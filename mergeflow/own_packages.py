"""Whether the packages that are imported are ours.

`tasks` and `flows` are names that others use as well. Another distribution's package can be found
before ours, or can have been installed over ours. The first thing to say is that, before an import
fails in some other way.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("merge_core", "tasks", "flows")
_PLACE = Path(__file__).resolve().parent.parent
"""The directory that holds this package, and the others beside it."""

HIDDEN_MEND = (
    "take that directory, or the empty entry that stands for the current one, out of PYTHONPATH;"
    " or uninstall the package that it belongs to; or install mergeflow into a virtual environment"
    " of its own"
)
_AGAIN = "install mergeflow again, best into a virtual environment of its own"


def refuse_foreign_packages() -> None:
    """Say which package stands in the place of one of ours, and end this program.

    Raises:
        SystemExit: with the message; Python prints it and exits with status 1.
    """
    for name in PACKAGES:
        found = hidden(name)
        if found:
            _refuse(found, mend=HIDDEN_MEND)
        if not (_PLACE / name / "__init__.py").is_file():
            _refuse(
                f"mergeflow's own package `{name}` in {str(_PLACE)!r} is incomplete", mend=_AGAIN
            )
    _refuse_overwritten([f"{name}/__init__.py" for name in PACKAGES])


def refuse_overwritten_files() -> None:
    """Say which distribution has been installed over any module of ours, and end this program.

    Raises:
        SystemExit: as above.
    """
    _refuse_overwritten(
        [name for name in _installed_digests() if name.startswith(tuple(f"{p}/" for p in PACKAGES))]
    )


def hidden(name: str) -> str | None:
    """What is found in place of our package of this name; None when it is ours."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return f"mergeflow's own package `{name}` is missing from {str(_PLACE)!r}"
    places = list(spec.submodule_search_locations or [spec.origin or ""])
    if [Path(place).resolve() for place in places] == [_PLACE / name]:
        return None
    said = f"mergeflow's own package `{name}` is hidden by {places[0]!r}"
    place = Path(places[0])
    owner = _owner(place.parent, (place.name, f"{place.name}/__init__.py"))
    return f"{said}, which the distribution {owner} installed" if owner else said


def _refuse_overwritten(names: list[str]) -> None:
    digests = _installed_digests()
    for name in names:
        if name in digests and _digest(_PLACE / name) != digests[name]:
            owner = _owner(_PLACE, (name,))
            if owner:  # else its user has changed it, who may
                package, path = name.partition("/")[0], str(_PLACE / name)
                _refuse(
                    f"mergeflow's own package `{package}` was overwritten by the distribution"
                    f" {owner}: {path!r} is not what mergeflow installed",
                    mend=f"uninstall that distribution, then {_AGAIN}",
                )


def _installed_digests() -> dict[str, str]:
    """What the installer has noted of our files: names and digests. Nothing for a checkout."""
    for record in _PLACE.glob("mergeflow-*.dist-info/RECORD"):
        rows = (line.split(",") for line in record.read_text("utf-8").splitlines())
        return {row[0]: row[1] for row in rows if len(row) == 3 and row[0].endswith(".py")}
    return {}


def _digest(path: Path) -> str:
    try:
        digest = hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return ""
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _owner(place: Path, names: tuple[str, ...]) -> str | None:
    """The distribution in a directory that has installed one of these files, for a message."""
    return next(_owners(place, set(names)), None)


def _owners(place: Path, names: set[str]) -> Iterator[str]:
    from importlib.metadata import distributions

    for distribution in distributions(path=[str(place)]):
        name = str(distribution.metadata["Name"])
        files = () if name == "mergeflow" else distribution.files or ()
        if any(file.as_posix() in names for file in files):
            yield f"{name!r} {distribution.version}"


def _refuse(what: str, mend: str) -> None:
    raise SystemExit(f"error: {what}\n  what to do: {mend}")
