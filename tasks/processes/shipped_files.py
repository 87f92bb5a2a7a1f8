"""Where the files are that come with mergeflow, `configs` and `deployments`.

A checkout has them at its top. An installation has them in the package `mergeflow`: the directory
that holds all packages is shared there, and somebody else's `configs` may be in it.
"""

from __future__ import annotations

import contextlib
import glob
import shlex
from pathlib import Path

from tasks.processes.own_python import ROOT

_INSTALLED = ROOT / "mergeflow"


def shipped(directory: str) -> Path:
    """The directory of this name that came with the code that runs."""
    installed = _INSTALLED / directory
    return installed if installed.is_dir() else ROOT / directory


def example(*parts: str) -> str:
    """The path of a shipped configuration as a shell takes it, short where that is possible."""
    path = shipped("configs").joinpath(*parts)
    with contextlib.suppress(ValueError, OSError):  # elsewhere, or the directory is gone
        path = path.relative_to(Path.cwd())
    return shlex.quote(str(path))


def namesakes(name: str) -> list[Path]:
    """The shipped configurations whose file has this name."""
    return sorted(shipped("configs").glob(f"*/{glob.escape(name)}")) if name else []


def are_installed() -> bool:
    """Whether they belong to an installation, where nobody should edit them."""
    return (_INSTALLED / "configs").is_dir()
