"""Private files and directories: their modes under any umask, and whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from merge_core.files.private import make_private_directory, write_private


@pytest.fixture(params=[0o000, 0o002, 0o022, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_directory_and_the_parents_made_for_it_are_its_owners_alone(
    tmp_path: Path, umask: int
) -> None:
    make_private_directory(tmp_path / "a" / "b")
    assert _mode(tmp_path / "a") == 0o700
    assert _mode(tmp_path / "a" / "b") == 0o700


def test_a_directory_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o755)
    make_private_directory(open_to_all)
    make_private_directory(open_to_all / "inside")
    assert _mode(open_to_all) == 0o755
    assert _mode(open_to_all / "inside") == 0o700


def test_a_file_in_place_of_a_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="directory"):
        make_private_directory(tmp_path / "file")


def test_a_file_is_its_owners_alone_also_when_it_takes_the_place_of_an_open_one(
    tmp_path: Path, umask: int
) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o666)
    write_private(path, "new")
    assert _mode(path) == 0o600
    assert path.read_text() == "new"
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]


def test_a_link_in_place_of_the_file_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("theirs")
    (tmp_path / "secret").symlink_to(tmp_path / "target")
    write_private(tmp_path / "secret", b"ours")
    assert (tmp_path / "target").read_text() == "theirs"
    assert not (tmp_path / "secret").is_symlink()
