"""Files that are no Python travel in the wheel: `pyproject.toml` names each by a pattern."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tests.architecture.measure import PACKAGES, ROOT


def test_every_data_file_of_the_packages_is_named_for_the_wheel() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    named: set[Path] = set()
    for package, patterns in options["package-data"].items():
        if package in PACKAGES:
            named |= {path for pattern in patterns for path in (ROOT / package).glob(pattern)}
    present = {
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    assert present - named == set()
    assert any(path.suffix == ".jinja" for path in named)
