"""Which tasks lm-eval ships, found by reading its files: its own index takes tens of seconds."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_NAMED = re.compile(rb"^(task|group|tag):[ \t]*[\"']?([\w.+-]+)", re.MULTILINE)
_LISTED = re.compile(rb"^[ \t]*-[ \t]+[\"']?([\w.+-]+)[\"']?[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Catalogue:
    """Names in lm-eval's task files."""

    tasks: dict[str, Path]
    """Single tasks, with the directory of their file."""
    others: frozenset[str]
    """Everything that may be a group or a tag."""

    @property
    def names(self) -> set[str]:
        return {*self.tasks, *self.others}


@cache
def lm_eval_catalogue() -> Catalogue:
    """Read it once, in about half a second, without importing lm-eval."""
    package = importlib.util.find_spec("lm_eval")
    tasks: dict[str, Path] = {}
    others: set[str] = set()
    for root in (package.submodule_search_locations or []) if package else []:
        for directory, _, files in os.walk(Path(root, "tasks")):
            for file in files:
                if file.endswith(".yaml"):
                    text = Path(directory, file).read_bytes()
                    for kind, name in _NAMED.findall(text):
                        if kind == b"task":
                            tasks.setdefault(name.decode(), Path(directory))
                        else:
                            others.add(name.decode())
                    others.update(name.decode() for name in _LISTED.findall(text))
    return Catalogue(tasks, frozenset(others))
