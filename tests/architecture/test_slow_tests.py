"""What `make test` leaves out has a target of its own: no test is in neither."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_slow_test_has_a_make_target() -> None:
    named = set(re.findall(r"\btests/[\w./]+", (ROOT / "Makefile").read_text()))
    slow = [
        file.relative_to(ROOT)
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        if re.search(r"mark\.slow|\bfirst_few\(", file.read_text())
    ]
    assert slow
    missing = [
        str(file)
        for file in slow
        if not {str(file), *(str(above) for above in file.parents)} & named
    ]
    assert missing == []


def test_every_path_of_the_makefile_exists() -> None:
    named = set(re.findall(r"\btests/[\w./]+", (ROOT / "Makefile").read_text()))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
