"""Pauses the search for garbage while very many objects are made that are all kept.

Python looks through everything that is alive each time the number of objects has grown by a
quarter: of a plan of 100 000 tensors this takes longer than the planning.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_pauses = 0


@contextmanager
def collection_paused() -> Iterator[None]:
    """Also a decorator. May be nested, and used by several threads at once: the last one resumes.

    Where collection is off already, it stays off.
    """
    global _pauses
    with _lock:
        ours = _pauses > 0 or gc.isenabled()
        if ours:
            _pauses += 1
            gc.disable()
    try:
        yield
    finally:
        if ours:
            with _lock:
                _pauses -= 1
                if not _pauses:
                    gc.enable()
