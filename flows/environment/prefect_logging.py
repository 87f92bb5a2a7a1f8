"""Which file says how Prefect logs: the one that comes with Prefect.

Such a file names functions to call. Prefect takes it from `PREFECT_HOME/logging.yml`, which lies in
a mergeflow home, or from where `prefect.toml`, `pyproject.toml`, `.env` in the current directory or
a profile say; of all these only the environment, which goes before them, is certainly the user's.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

_NAMES = ("PREFECT_LOGGING_SETTINGS_PATH", "PREFECT_LOGGING_CONFIG_PATH")


def own_logging() -> dict[str, str]:
    """The setting that names Prefect's own file; nothing where Prefect is not installed."""
    found = find_spec("prefect")
    if found is None or found.origin is None:
        return {}
    return {_NAMES[0]: str(Path(found.origin).parent / "logging" / "logging.yml")}


def settle_logging() -> None:
    """Put it into the environment of this process, unless the user has: before Prefect is imported,
    which sets up its logging at once."""
    if not any(name in os.environ for name in _NAMES):
        os.environ.update(own_logging())
