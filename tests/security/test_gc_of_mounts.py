"""`mergeflow gc` beside mounts, in directories of another user, in a home that is a link."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.gc_store import ID, gc, state
from tests.support.merge_store import Store

pytest_plugins = ["tests.support.gc_fixtures"]

IN_A_MOUNT = 'mount --bind "$1" "$2"; shift 2; exec "$@"'
REMOVED_WITH_A_MOUNT = """
import sys
from pathlib import Path
from merge_core.files.removal import mounted_below, remove_entry
top = Path(sys.argv[1]).resolve()
assert mounted_below(top / "object") and mounted_below(top) and not mounted_below(top / "other")
try:
    remove_entry(top, "object")
except OSError as error:
    print(error)
"""


@pytest.fixture
def with_mount(precious: Path) -> Callable[[Path, list[str]], subprocess.CompletedProcess[str]]:
    """Runs Python with the user's directory mounted in a place, for nobody else to see."""
    apart = ["unshare", "-rm"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounts of one's own are not allowed here")

    def run(place: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        mount = ["bash", "-ec", IN_A_MOUNT, "bash", str(precious), str(place)]
        command = [*apart, *mount, sys.executable, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def test_a_tree_is_not_removed_through_what_is_mounted_in_it(
    tmp_path: Path, precious: Path, with_mount: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "top" / "object" / "data").mkdir(parents=True)
    (tmp_path / "top" / "other").mkdir()
    before = state(precious)
    place = tmp_path / "top" / "object" / "data"
    ended = with_mount(place, ["-c", REMOVED_WITH_A_MOUNT, str(tmp_path / "top")])
    assert "another file system is mounted there" in ended.stdout, ended.stderr
    assert state(precious) == before


@pytest.mark.slow
def test_what_is_mounted_in_the_store_is_left_alone(
    store: Store, precious: Path, with_mount: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    store.merged(1)
    place = store.home.objects / ID(7) / "data"
    place.mkdir(parents=True)
    before = state(precious)
    gc_now = ["gc", "--yes", "--empty-quarantine", "--older-than=0m"]
    ended = with_mount(place, ["-m", "flows.cli", *gc_now])
    assert ended.returncode == 0, ended.stderr
    assert "another file system is mounted in it" in ended.stdout
    assert state(precious) == before
    assert store.objects() == {ID(7)}


AS_ANOTHER_USER = """
import os, sys
from pathlib import Path
from merge_core.files.removal import move_entry, remove_entry
os.setgid(65534)
os.setuid(65534)
top = Path(sys.argv[1])
(top / "objects" / "o" / "in").mkdir(parents=True)
(top / "quarantine").mkdir()
(top / "objects" / "o" / "in" / "f").write_text("x")
(top / "objects" / "o" / "in").chmod(int(sys.argv[2], 8))
(top / "objects" / "o").chmod(int(sys.argv[2], 8))
move_entry(top / "objects", "o", top / "quarantine", "item")
assert (top / "quarantine" / "item").stat().st_mode & 0o777 == int(sys.argv[2], 8)
remove_entry(top / "quarantine", "item")
assert not list((top / "quarantine").iterdir())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
@pytest.mark.parametrize("mode", ["555", "000"])
def test_a_plain_user_removes_read_only_directories_of_their_own(mode: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o777)
        ended = subprocess.run(
            [sys.executable, "-c", AS_ANOTHER_USER, scratch, mode],
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr


def test_a_home_that_is_a_link_itself_is_tidied(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, useless = store.merged(1), store.merged(2)
    store.register(served)
    link = tmp_path / "home link"
    link.symlink_to(store.home.path)
    monkeypatch.setenv("MERGEFLOW_HOME", str(link))
    assert gc("--empty-quarantine") == 0
    assert store.objects() == {served.object_id}
    assert useless.object_id not in store.objects()
