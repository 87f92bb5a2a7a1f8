"""How kernels are compiled: numba, without the interpreter lock, kept on disk between runs.

Arithmetic is plain IEEE: no fast-math, no contraction into fused multiply-adds, so a kernel gives
the bits that the same expression gives in torch or numpy.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

import numba
import numba.extending
import numpy as np
from numba.core.caching import FunctionCache
from numpy.typing import NDArray

Array = NDArray[Any]
"""A run of stored values, see `merge_core.fused.formats`."""

_lock = threading.Lock()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel at its first call for each set of argument types.

    numba only notices changes of the file that a kernel is written in, not of those it uses. So the
    machine code is kept under a digest of this whole package and of numba's version; where that
    cannot be written, kernels are compiled in every process.
    """
    kernel: Any = numba.njit(nogil=True, error_model="numpy", fastmath=False)(function)
    directory = _cache_directory()
    if directory is not None:
        settings: Any = numba.config
        with _lock, suppress(RuntimeError):
            before = settings.CACHE_DIR
            settings.CACHE_DIR = str(directory)
            try:
                kernel._cache = _shared_cache(function)
            finally:
                settings.CACHE_DIR = before
    return cast(Callable[..., Any], kernel)


def instruction(generator: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function that writes LLVM instructions callable inside kernels."""
    return cast(Callable[..., Any], numba.extending.intrinsic(generator))


def _shared_cache(function: Callable[..., Any]) -> Any:
    """A cache that several processes may fill at once; one that cannot be written does no harm."""
    functions: Any = FunctionCache
    shared = functions(function)
    save = shared.save_overload

    def save_alone(signature: Any, data: Any) -> None:
        with suppress(OSError), (Path(shared.cache_path) / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            save(signature, data)

    shared.save_overload = save_alone
    return shared


@cache
def _cache_directory() -> Path | None:
    """Where machine code is kept, or None if there is no such place."""
    digest = hashlib.sha256(f"{numba.__version__} {np.__version__}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    root = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    try:
        caches = Path(root) if root else Path.home() / ".cache"
        directory = caches / "mergeflow" / f"kernels-{digest.hexdigest()[:16]}"
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return directory
    except (OSError, RuntimeError):
        return None
