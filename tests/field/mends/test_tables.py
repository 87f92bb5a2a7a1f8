"""Each mend that the code can print is in the tables: with the test that follows it, or the reason
why none does. A new mend fails here until it has a row; a row whose mend is gone fails, too."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tests.support.followed_mends import REASONS, ROOT, table
from tests.support.mends import printed_mends

_TODO = 0
"""Mends that no test follows yet, and one could. The number may only become smaller."""


def test_every_mend_has_a_row() -> None:
    missing = set(printed_mends()) - {row.mend for row in table()}
    assert not missing, "add a row to tests/field/mends/tables, and a test that follows it"


def test_no_row_is_left_over() -> None:
    assert not {row.mend for row in table()} - set(printed_mends())


def test_a_row_says_one_thing_once() -> None:
    rows = list(table())
    assert not [mend for mend, count in Counter(row.mend for row in rows).items() if count > 1]
    for row in rows:
        assert [bool(row.test), bool(row.cannot), row.todo].count(True) == 1, row
        assert row.cannot is None or row.cannot in REASONS, row


def test_the_tests_are_there() -> None:
    named = {row.test for row in table() if row.test}
    assert not [test for test in sorted(named) if not _exists(test)]


def test_what_is_still_to_be_done_becomes_less() -> None:
    assert sum(row.todo for row in table()) == _TODO


def _exists(test: str) -> bool:
    """Whether a test has this name, with these parameters where it names some."""
    path, _, name = test.partition("::")
    if not (ROOT / path).is_file():
        return False
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    function, _, case = name.partition("[")
    found = getattr(module, function, None)
    return found is not None and (not case or case.removesuffix("]") in _cases(found))


def _cases(function: Any) -> Iterable[str]:
    """What pytest calls the cases of a test that is parametrised once."""
    for mark in function.pytestmark:
        if mark.name == "parametrize":
            ids = mark.kwargs.get("ids")
            for case in mark.args[1]:
                yield ids(case) if ids else str(case)
