"""`~` in a path that somebody wrote, and files that are written for people."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from merge_core.files.new_file import write_new
from merge_core.files.written_path import written_path

NOBODYS = "~nobody-has-this-name/x"


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A directory where no file can be longer than four bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, before[1]))
    yield tmp_path
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_tilde_is_a_home_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/homes/ada")
    assert written_path("~/x") == Path("/homes/ada/x")
    assert written_path(NOBODYS) == Path(NOBODYS)
    assert written_path("a~b") == Path("a~b")


def test_nothing_is_left_of_a_file_that_has_no_room(full: Path) -> None:
    with pytest.raises(OSError, match="too large"):
        write_new(full / "page", "a page")
    assert list(full.iterdir()) == []
    write_new(full / "page", "page")
    with pytest.raises(FileExistsError):
        write_new(full / "page", "more")
    assert (full / "page").read_text() == "page"
