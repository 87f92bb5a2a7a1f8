"""Modules of `flows` under the names that the documentation gave them before the rooms.

The table is `merge_core.former_names`. It is read when such a name is asked for, and not before:
the command line says first which foreign package hides one of ours, and only then imports our own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Former:
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("flows."):
            return None
        from merge_core.former_names import former_spec

        return former_spec(fullname)


def forward_former_names() -> None:
    """Let imports of former names succeed in this process."""
    if not any(isinstance(finder, _Former) for finder in sys.meta_path):
        sys.meta_path.append(_Former())
