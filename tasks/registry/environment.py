"""The versions a merge was made with; nothing of the process environment."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "mergeflow",
    "torch",
    "numpy",
    "safetensors",
    "transformers",
    "lm_eval",
    "mlflow",
    "prefect",
    "pydantic",
)


def environment() -> dict[str, Any]:
    """Versions of Python, the packages that decide the result, and this code."""
    packages: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "code_commit": code_commit(),
        "packages": packages,
    }


def _processor() -> str | None:
    """The type of the processor, as Linux names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, None)


def code_commit() -> str | None:
    """The commit mergeflow runs from, when it runs from a checkout of its own repository."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        tracked = subprocess.run(
            [*git, "ls-files", "--error-unmatch", here.name], capture_output=True, timeout=10
        )
        if tracked.returncode != 0:
            return None
        head = subprocess.run(
            [*git, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            capture_output=True,
            timeout=30,
            text=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() or None
