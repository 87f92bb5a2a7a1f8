"""Settings of Prefect's in files of the working directory, which may have come with a clone.

Prefect reads `.env`, `prefect.toml` and `pyproject.toml` wherever it is started, and a setting can
run code: `PREFECT_LOGGING_SETTINGS_PATH` names a file that calls any function. There is no switch,
so the files are looked at first.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path

from merge_core.errors import HomeError

_PREFIX = "prefect"


def refuse_settings_beside() -> None:
    """Make sure that no file in the working directory gives Prefect orders.

    Raises:
        HomeError: one does, or cannot be read.
    """
    for name, settings_of in _FILES.items():
        file = Path.cwd() / name
        if not file.exists():
            continue
        try:
            found = settings_of(file)
        except (OSError, ValueError) as error:
            raise HomeError(
                f"Prefect would read this file, and it cannot be read: {type(error).__name__}",
                where=str(file),
                mend="mend it, or start in another directory",
            ) from error
        if found:
            raise HomeError(
                f"Prefect would take settings from this file ({', '.join(found[:3])}"
                f"{', ...' if len(found) > 3 else ''}), which may have come with the files around"
                " it, and settings can run code",
                where=str(file),
                mend="put them into your Prefect profile (prefect config set NAME=VALUE) or the"
                f" environment, and take them out of {shlex.quote(name)}; or start in another"
                " directory",
            )


def _in_dotenv(file: Path) -> list[str]:
    from dotenv import dotenv_values

    names = dotenv_values(file, interpolate=False, encoding="utf-8")
    return [name for name in names if name.lower().startswith(_PREFIX)]


def _in_toml(file: Path) -> list[str]:
    return list(tomllib.loads(file.read_text("utf-8")))


def _in_pyproject(file: Path) -> list[str]:
    tool = tomllib.loads(file.read_text("utf-8")).get("tool", {})
    return [f"tool.{_PREFIX}"] if tool.get(_PREFIX) else []


_FILES: dict[str, Callable[[Path], list[str]]] = {
    ".env": _in_dotenv,
    "prefect.toml": _in_toml,
    "pyproject.toml": _in_pyproject,
}
