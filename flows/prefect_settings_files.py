"""Prefect's settings come from the environment and its home, not from files where we are called.

Prefect reads `.env`, `prefect.toml` and `pyproject.toml` of the current directory. One of its
settings names a logging configuration, which names functions to call: a file in a directory that
was cloned would run code. The files are left out before the settings are read for the first time.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType, SimpleNamespace
from typing import Any

_SOURCES = "prefect.settings.sources"


def ignore_settings_files() -> None:
    """Do so from now on, or as soon as this process imports Prefect."""
    loaded = sys.modules.get(_SOURCES)
    if loaded is not None:
        _leave_out(loaded)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _SOURCES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(name, spec.origin)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _leave_out(module)


def _leave_out(sources: Any) -> None:
    sources.TomlConfigSettingsSourceBase._read_files = lambda *_, **__: {}
    sources.FilteredDotEnvSettingsSource._read_env_files = lambda *_, **__: {}
    # Where the profiles are may be said in the same files.
    sources._get_profiles_path_from_toml = lambda *_: None
    sources.dotenv = SimpleNamespace(dotenv_values=lambda *_: {})
