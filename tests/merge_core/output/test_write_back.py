"""Early writing to the disk is a hint: it changes no byte, and is missed by nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from merge_core.output import write_back
from merge_core.output.write_back import begin_write_back


@pytest.fixture(autouse=True)
def _looked_up_again() -> Iterator[None]:
    write_back._sync_file_range.cache_clear()
    yield
    write_back._sync_file_range.cache_clear()


def test_the_bytes_stay_and_the_kernel_accepts_the_range(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10_000)
    call = write_back._sync_file_range()
    with path.open("r+b") as file:
        assert call is None or call(file.fileno(), 100, 5000, write_back._WRITE) == 0
        begin_write_back(file.fileno(), 100, 5000)
    assert path.read_bytes() == b"x" * 10_000


def test_what_cannot_be_written_is_left_to_the_flush() -> None:
    begin_write_back(-1, 0, 1)


def test_nothing_happens_where_the_system_has_no_such_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert write_back._sync_file_range() is None
    with (tmp_path / "file").open("wb") as file:
        begin_write_back(file.fileno(), 0, 1)
