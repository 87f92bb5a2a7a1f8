"""Machine code of kernels: kept in files, loaded by LLVM's own loader, called through an address.

The directory's name is a digest of everything that the code depends on: the sources of the kernels
and of the methods they belong to, the versions of numba, LLVM, numpy and Python, numba's settings,
and the processor. So a file is right or absent, and nothing has to be invalidated. Where nothing
can be written, or others could write, every process compiles what it calls.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
import time
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np

ROOMS = ("jit", "reductions", "methods", "kernels")
"""The rooms of the library that a kernel's code can come from, with all that is below them. What a
kernel calls elsewhere would not be in the digest, so kernels are written in these rooms alone."""

_UNUSED_SECONDS = 30 * 24 * 3600.0
_engines: list[Any] = []
"""They own the code, and live as long as the process."""


class MachineCode(NamedTuple):
    """A kernel compiled for one set of argument types.

    symbol: a function that takes the address of the packed arguments, and gives 0 if all went well.
    result: the kind of what the kernel returns, which is written to the first 8 bytes.
    """

    symbol: str
    result: str
    object_file: bytes


def load(code: MachineCode) -> int:
    """Make machine code callable: the address of its entry."""
    machine = _target().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code.object_file))
    engine.finalize_object()
    _engines.append(engine)
    address = engine.get_function_address(code.symbol)
    if not address:
        raise AssertionError(f"the machine code holds no {code.symbol}")
    return int(address)


def read_kept(name: str, kinds: object) -> MachineCode | None:
    """The machine code that an earlier process has kept, if it is there and whole."""
    directory = _directory()
    if directory is None:
        return None
    try:
        head, _, rest = (directory / _file_name(name, kinds)).read_bytes().partition(b"\n")
        if head.decode() == hashlib.sha256(rest).hexdigest():
            facts, _, object_file = rest.partition(b"\n")
            symbol, result = json.loads(facts)
            return MachineCode(symbol, result, object_file)
    except (OSError, ValueError, TypeError):
        pass
    return None


def write_kept(name: str, kinds: object, code: MachineCode) -> None:
    """Keep machine code for later processes. Several may do so at once; none sees half a file."""
    directory = _directory()
    if directory is None or _sources_digest() != _SOURCES:
        return  # what was compiled is not what stands in the files any more
    rest = json.dumps([code.symbol, code.result]).encode() + b"\n" + code.object_file
    fresh = directory / f".{secrets.token_hex(8)}"
    try:
        fresh.write_bytes(hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)
        fresh.rename(directory / _file_name(name, kinds))
    except OSError:
        fresh.unlink(missing_ok=True)


def processor() -> str:
    """Name and features of this machine's processor."""
    return f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"


def covers(module: str) -> bool:
    """Whether the digest of the sources covers a module, so that its kernels may be kept."""
    return module.startswith(tuple(f"merge_core.{room}." for room in ROOMS))


def _file_name(name: str, kinds: object) -> str:
    return f"{name}-{hashlib.sha256(repr(kinds).encode()).hexdigest()[:16]}.kernel"


@cache
def _target() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_triple(llvm.get_process_triple())


def _sources_digest() -> str | None:
    """Of the files that kernels are made of, the methods' constants included; None without any."""
    library = Path(__file__).parent.parent
    digest = hashlib.sha256()
    try:
        paths = sorted(path for room in ROOMS for path in (library / room).rglob("*.py"))
        for path in paths:
            digest.update(str(path.relative_to(library)).encode() + path.read_bytes())
    except OSError:
        return None
    return digest.hexdigest() if paths else None


_SOURCES = _sources_digest()
"""When this process imported them, or as good as: an editor may change the files meanwhile."""


@cache
def _directory() -> Path | None:
    """Where machine code is kept, or None if there is no such place."""
    if _SOURCES is None:
        return None
    versions = (version("numba"), llvm.llvm_version_info, np.__version__)
    python = (sys.implementation.cache_tag, sys.abiflags, object.__basicsize__)
    settings = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_"))
    facts = (_SOURCES, versions, python, settings, processor(), llvm.get_process_triple())
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()
    root = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    try:
        caches = Path(root) if root else Path.home() / ".cache"
        ours = caches / "mergeflow"
        directory = ours / f"kernels-{digest[:16]}"
        for each in (ours, directory):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_ours_alone(each):
                return None
        os.utime(directory)
        _remove_unused(ours)
        return directory if os.access(directory, os.W_OK | os.X_OK) else None
    except (OSError, RuntimeError):
        return None


def _remove_unused(ours: Path) -> None:
    """Remove the machine code of versions that no process has used for long.

    A process that is about to read there compiles instead.
    """
    for directory in ours.glob("kernels-*"):
        with suppress(OSError):  # another process was faster
            if directory.stat().st_mtime < time.time() - _UNUSED_SECONDS:
                shutil.rmtree(directory)


def _is_ours_alone(directory: Path) -> bool:
    """Whether nobody else may write there: what is kept is executed."""
    status = directory.stat()
    if not hasattr(os, "geteuid"):
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
