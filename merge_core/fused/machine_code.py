"""Machine code of kernels: kept in files, loaded by LLVM's own loader, called through an address.

The directory's name is a digest of everything that the code depends on: this package's sources, the
versions of numba, LLVM and numpy, and the processor. So a file is right or absent, and nothing has
to be invalidated. Where nothing can be written, every process compiles what it calls.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np

_ENTRY = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_engines: list[Any] = []
"""They own the code, and live as long as the process."""


class MachineCode(NamedTuple):
    """A kernel compiled for one set of argument types.

    symbol: a function that takes the address of the packed arguments and gives 0.
    result: the kind of what the kernel returns, which is written to the first 8 bytes.
    """

    symbol: str
    result: str
    object_file: bytes


def load(code: MachineCode) -> Callable[[int], int]:
    """Make machine code callable; a call releases the interpreter's lock."""
    machine = _target().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code.object_file))
    engine.finalize_object()
    _engines.append(engine)
    return _ENTRY(engine.get_function_address(code.symbol))


def read_kept(name: str, kinds: object) -> MachineCode | None:
    """The machine code that an earlier process has kept, if it is there and whole."""
    directory = _directory()
    if directory is None:
        return None
    try:
        head, _, object_file = (directory / _file_name(name, kinds)).read_bytes().partition(b"\n")
        said = json.loads(head)
        if said["sha256"] == hashlib.sha256(object_file).hexdigest():
            return MachineCode(said["symbol"], said["result"], object_file)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def write_kept(name: str, kinds: object, code: MachineCode) -> None:
    """Keep machine code for later processes. Several may do so at once; none sees half a file."""
    directory = _directory()
    if directory is None:
        return
    digest = hashlib.sha256(code.object_file).hexdigest()
    head = json.dumps({"symbol": code.symbol, "result": code.result, "sha256": digest})
    fresh = directory / f".{secrets.token_hex(8)}"
    with suppress(OSError):
        fresh.write_bytes(head.encode() + b"\n" + code.object_file)
        fresh.rename(directory / _file_name(name, kinds))


def processor() -> str:
    """Name and features of this machine's processor."""
    return f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"


def _file_name(name: str, kinds: object) -> str:
    return f"{name}-{hashlib.sha256(repr(kinds).encode()).hexdigest()[:16]}.kernel"


@cache
def _target() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_triple(llvm.get_process_triple())


@cache
def _directory() -> Path | None:
    """Where machine code is kept, or None if there is no such place."""
    versions = (version("numba"), llvm.llvm_version_info, np.__version__)
    settings = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_"))
    facts = (*versions, settings, processor(), llvm.get_process_triple())
    digest = hashlib.sha256(repr(facts).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    root = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    try:
        caches = Path(root) if root else Path.home() / ".cache"
        directory = caches / "mergeflow" / f"kernels-{digest.hexdigest()[:16]}"
        directory.mkdir(parents=True, exist_ok=True)
        return directory if os.access(directory, os.W_OK | os.X_OK) else None
    except (OSError, RuntimeError):
        return None
