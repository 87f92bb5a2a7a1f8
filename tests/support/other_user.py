"""Another Unix user of this machine, made where root allows it: a fork with another number.

A fork, not a program: the interpreter may lie where only root can read it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

STRANGER, SERVING, SERVING_GROUP = 61_001, 61_002, 61_102
_CLONE_NEWUSER = 0x10000000
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def as_user(
    action: Callable[[], object],
    uid: int = STRANGER,
    gid: int = STRANGER,
    groups: tuple[int, ...] = (),
) -> None:
    """Do something as another user. An assertion that fails there fails here."""

    def inside() -> None:
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)
        action()

    _in_child(inside)


def _in_child(action: Callable[[], object]) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 0
        try:
            action()
        except BaseException:
            os.write(writing, traceback.format_exc().encode()[-60_000:])
            code = 1
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        text = said.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    assert status == 0, text


@contextmanager
def reachable_directory() -> Iterator[Path]:
    """A directory that other users can get to, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="mergeflow-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def in_user_namespace(action: Callable[[], object], *, mapped: bool) -> None:
    """Do something as in a rootless container: with all other users' numbers unknown, and without
    `mapped` its own, too. Skips the test where the system does not allow it."""
    program = shutil.which("unshare")
    if not program or subprocess.run([program, "--user", "true"], check=False).returncode:
        pytest.skip("no user namespaces here")

    def inside() -> None:
        uid = os.geteuid()
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(_CLONE_NEWUSER) == 0, os.strerror(ctypes.get_errno())
        if mapped:
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        action()

    _in_child(inside)


def opens_nothing(*places: Path) -> None:
    """Call as another user: not one of these places can be listed, read or written."""
    for place in places:
        for attempt in (place.iterdir, place.read_bytes, (place / "planted").touch):
            try:
                found = attempt()
                list(found) if attempt == place.iterdir else None  # type: ignore[call-overload]
            except OSError:
                continue
            raise AssertionError(f"{place}: {attempt} succeeded")
