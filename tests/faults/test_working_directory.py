"""What a merge finds where it would work: a link, a stranger's files, pipes, an earlier merge."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from merge_core.output import working_directory
from merge_core.output.working_directory import hold, remove
from merge_core.progress import ProgressEvent
from merge_core.runtime.machine import machine_name
from tests.support.crash_cases import TENSOR_BYTES, Case, merge_server, sums
from tests.support.forked_commands import ForkServer, Signalled

OUT = Case("linear", 10 * TENSOR_BYTES)
TAKES_TURNS = """
import os, sys, time
from pathlib import Path
from merge_core.output import working_directory
working_directory._LOOK_EVERY = 0.001
directory, end, turns = Path(sys.argv[1]), time.monotonic() + 1.5, 0
while time.monotonic() < end:
    lock = working_directory.hold(directory)
    (directory / "checkpoint").mkdir()  # fails if somebody else is at work
    (directory / "journal").touch()
    working_directory.remove(directory)
    os.close(lock)
    turns += 1
print(turns)
"""


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ForkServer]:
    with merge_server(models, [OUT.recipe]) as running:
        yield running


def files_of(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*")}


def test_nothing_is_touched_behind_a_link_in_place_of_the_working_directory(
    server: ForkServer, models: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    (theirs / "checkpoint").mkdir(parents=True)
    (theirs / "checkpoint" / "mine").write_text("precious")
    (tmp_path / ".out.mergeflow").symlink_to(theirs)
    merge = OUT.start(server, models, tmp_path)
    assert merge.wait() != 0
    assert "a link stands where this merge would work" in merge.said
    assert [path.name for path in theirs.rglob("*")] == ["checkpoint", "mine"]


@pytest.mark.parametrize("name", ["checkpoint/mine", "notes.txt", "lock/mine"])
def test_a_strangers_directory_is_told_and_left_as_it_is(
    name: str, server: ForkServer, models: Path, tmp_path: Path
) -> None:
    working = tmp_path / ".out.mergeflow"
    (working / name).parent.mkdir(parents=True)
    (working / name).write_text("precious")
    before = files_of(working)
    merge = OUT.start(server, models, tmp_path)
    assert merge.wait() == 2
    assert f"{name.partition('/')[0]!r} in it is no merge's" in merge.said
    assert "move the directory away, or write to another place" in merge.said
    assert files_of(working) == before


def test_what_a_stranger_adds_to_a_killed_merge_is_told_and_left(
    server: ForkServer, models: Path, tmp_path: Path
) -> None:
    killed = OUT.start(
        server, models, tmp_path, signalled=Signalled(signal.SIGKILL, line="progress\tmerge")
    )
    assert killed.wait() == -signal.SIGKILL
    added = tmp_path / ".out.mergeflow" / "notes.txt"
    added.write_text("precious")
    refused = OUT.start(server, models, tmp_path)
    assert refused.wait() == 2
    assert "'notes.txt' in it is no merge's" in refused.said
    assert added.read_text() == "precious"
    added.unlink()
    again = OUT.start(server, models, tmp_path)
    assert again.wait() == 0, again.said
    assert OUT.leftovers(tmp_path) == set()


@pytest.mark.parametrize("name", ["journal", "journal.new", "checkpoint", "groups", "replaced"])
def test_a_pipe_in_place_of_a_file_of_ours_is_not_waited_for(
    name: str, server: ForkServer, models: Path, tmp_path: Path
) -> None:
    working = tmp_path / ".out.mergeflow"
    working.mkdir()
    os.mkfifo(working / name)
    (working / "lock").touch()
    merge = OUT.start(server, models, tmp_path)
    assert merge.wait() == 0, merge.said
    assert OUT.leftovers(tmp_path) == set()


def test_a_link_in_place_of_the_journal_is_not_followed(
    server: ForkServer, models: Path, tmp_path: Path
) -> None:
    working, theirs = tmp_path / ".out.mergeflow", tmp_path / "theirs"
    working.mkdir()
    (working / "lock").touch()
    theirs.write_text("precious")
    for name in ("journal", "journal.new", "groups", "checkpoint"):
        (working / name).symlink_to(theirs)
    merge = OUT.start(server, models, tmp_path)
    assert merge.wait() == 0, merge.said
    assert theirs.read_text() == "precious"
    assert OUT.leftovers(tmp_path) == {"theirs"}


def test_no_directory_is_made_for_a_way_back(
    server: ForkServer, models: Path, tmp_path: Path
) -> None:
    recipe = str(models / "linear.yaml")
    merge = server.start(["merge", recipe, "nowhere/../made"], tmp_path)
    assert merge.wait() == 0, merge.said
    assert "model.safetensors" in sums(tmp_path / "made")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["config.json", "README.md", "SHA256SUMS"])
def test_nothing_beside_a_killed_merges_weights_is_followed_or_waited_for(
    name: str, server: ForkServer, models: Path, tmp_path: Path
) -> None:
    killed = OUT.start(
        server, models, tmp_path, signalled=Signalled(signal.SIGKILL, line="progress\tmerge")
    )
    assert killed.wait() == -signal.SIGKILL
    working, theirs = tmp_path / ".out.mergeflow", tmp_path / "theirs"
    with (working / "journal").open("a") as journal:
        journal.write("0\n")  # so that the files are taken over
    theirs.write_text("precious")
    theirs.chmod(0o600)
    (working / "checkpoint" / name).symlink_to(theirs)
    os.mkfifo(working / "checkpoint" / "mergeflow_recipe.yaml")
    again = OUT.start(server, models, tmp_path)
    assert again.wait() == 0, again.said
    assert theirs.read_text() == "precious"
    assert theirs.stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "out" / name).is_symlink()
    assert (tmp_path / "out" / "mergeflow_recipe.yaml").is_file()


def test_many_processes_take_turns(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKES_TURNS, str(tmp_path / "working")]
    others = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    turns = [int(other.communicate()[0] or 0) for other in others]
    assert [other.returncode for other in others] == [0] * 4
    assert sum(turns) > 20
    assert not (tmp_path / "working").exists()


def test_what_cannot_be_removed_is_left_to_the_next_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = tmp_path / "working"
    os.close(hold(working))
    (working / "groups").mkdir()
    removing = working_directory.remove_entry
    with monkeypatch.context() as patch:
        patch.setattr(
            working_directory,
            "remove_entry",
            lambda path: None if path.name == "groups" else removing(path),
        )
        remove(working)
    assert {path.name for path in working.iterdir()} == {"lock", "groups"}
    os.close(hold(working))
    remove(working)
    assert not working.exists()


@pytest.mark.parametrize("text", ["1 host [/nope]\n", "1 \x1b]0;title\x07\n", "x", "", "7" * 999])
def test_a_name_in_the_lock_that_no_merge_wrote_is_not_shown(text: str, tmp_path: Path) -> None:
    working, told = tmp_path / "working", []
    working.mkdir()
    (working / "lock").write_text(text)
    with (working / "lock").open("r+") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)

        def listen(event: ProgressEvent) -> None:
            told.append((event.stage, event.done))
            fcntl.flock(holder, fcntl.LOCK_UN)

        os.close(hold(working, listen))
    assert set(told) == {
        ("waiting for another merge to the same place", 0),
        ("waiting for another merge to the same place", 1),
    }
    assert (working / "lock").read_text() == f"{os.getpid()} {machine_name()}\n"
