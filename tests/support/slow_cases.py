"""Cases of one kind of which a few run in `make test` and all in a target of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first_few(cases: Iterable[Any], count: int) -> list[Any]:
    """The cases for `parametrize`: all after the first `count` are marked slow."""
    return [
        case if place < count else pytest.param(case, marks=pytest.mark.slow)
        for place, case in enumerate(cases)
    ]
