"""Whether a Triton kernel can be trusted on a device: it is tried there before it is used.

A kernel is compiled for the device and the driver that it meets, for the dtypes and the number of
models at hand, and no test elsewhere has seen that machine code. Triton needs a C compiler besides.
So the first worker that could use one lets it compute some thousand awkward values, and compares
what it gives with torch's expressions, bit by bit, on that device. Where anything fails or differs,
torch's expressions are used: slower, and right.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from importlib.util import find_spec

from merge_core.runtime.gpu_memory import is_shortage
from merge_core.runtime.lazy_torch import torch
from merge_core.text.plain import plain_log

_log = plain_log("mergeflow")
_lock = threading.Lock()
_found: dict[tuple[Hashable, ...], bool] = {}


def is_trusted(
    device: torch.device, kernel: tuple[Hashable, ...], agrees: Callable[[], bool]
) -> bool:
    """Whether a kernel gives the right bits on a device; found out once for a process.

    Args:
        kernel: its name, and all that it is compiled for.
        agrees: tries it.
    """
    key = (device, *kernel)
    with _lock:
        if key not in _found:
            _found[key] = find_spec("triton") is not None and _is_right(device, kernel, agrees)
        return _found[key]


def same_bits(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two tensors of one dtype hold the same patterns."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[found.element_size()]
    return torch.equal(found.view(kind), expected.view(kind))


def _is_right(
    device: torch.device, kernel: tuple[Hashable, ...], agrees: Callable[[], bool]
) -> bool:
    try:
        if agrees():
            return True
        why = "it gives other bits than torch"
    except Exception as error:  # of Triton, its compiler, the driver: whatever it is
        if is_shortage(error):
            raise
        why = f"{type(error).__name__}: {error}"
    _log.warning(
        "Triton's kernel %s cannot be used on %s (%s): merging without it", kernel[0], device, why
    )
    return False
