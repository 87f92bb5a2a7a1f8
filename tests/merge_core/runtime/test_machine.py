"""The machine's name is stored in locks and records, whatever bytes it has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from merge_core.runtime.machine import machine_name

_NAMED = (
    "import ctypes, os\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "if libc.unshare(0x04000000) or libc.sethostname(b'\\x89PNG\\r\\n\\x1a', 7):\n"
    "    raise SystemExit(77)\n"
    "from merge_core.runtime.machine import machine_name\n"
    "print(machine_name().encode().decode('ascii'))\n"
)


def test_it_is_the_nodes() -> None:
    assert machine_name() == os.uname().nodename


def test_a_name_that_is_no_text_is_written_out() -> None:
    """In a namespace of its own, so that this machine keeps its name."""
    ended = subprocess.run([sys.executable, "-c", _NAMED], capture_output=True, text=True)
    if ended.returncode == 77:
        pytest.skip("this user may not name a machine, not even in a namespace of its own")
    assert ended.stdout == "\\udc89PNG\\r\\n\\x1a\n"
