"""How a process of ours begins: nothing in the directory where a command is called is imported.

`python -m` puts that directory first, and an empty entry of PYTHONPATH means it, so that a
`tasks.py` or a `yaml.py` there would be run in place of the one that is meant.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
"""The directory that holds our packages: a checkout, or the environment's site-packages."""

_VARIABLE = "PYTHONSAFEPATH"
_OURS = "mergeflow"
"""Any value will do for Python; this one tells ours from one that the user has set."""


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module without looking for it in the current directory."""
    return [sys.executable, "-P", "-m", module, *arguments]


def import_path(environment: Mapping[str, str]) -> str:
    """PYTHONPATH for it: our packages where they are not installed, then the user's entries."""
    installed = str(ROOT) in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    return os.pathsep.join([*([] if installed else [str(ROOT)]), *_named(environment)])


def guard_this_process() -> None:
    """Make this program, and every Python that it starts, blind to the current directory.

    A directory that the user named in PYTHONPATH stays, were it the current one.
    """
    here = None
    with contextlib.suppress(OSError):  # it may have been removed
        here = str(Path.cwd())
    named = _named(os.environ)
    sys.path[:] = [
        entry for entry in sys.path if entry not in ("", here) or entry in (*named, str(ROOT))
    ]
    if "PYTHONPATH" in os.environ:
        os.environ["PYTHONPATH"] = os.pathsep.join(named)
    os.environ.setdefault(_VARIABLE, _OURS)


def for_code_of_others(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a process that runs a user's own code, which may start Python as it likes:
    without our switch, with the user's."""
    kept = dict(environment)
    if kept.get(_VARIABLE) == _OURS:
        del kept[_VARIABLE]
    return kept


def _named(environment: Mapping[str, str]) -> list[str]:
    entries = environment.get("PYTHONPATH", "").split(os.pathsep)
    return [str(Path(entry).absolute()) for entry in entries if entry]
