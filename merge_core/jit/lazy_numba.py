"""numba's types, imported when a kernel is compiled: most processes only load what is kept.

In modules of kernels: `from merge_core.jit.lazy_numba import types`, for use inside functions.
"""

from __future__ import annotations

from typing import Any


class _LazyModule:
    """Looks like the module `numba.types`."""

    def __getattr__(self, name: str) -> Any:
        from numba import types

        return getattr(types, name)


types: Any = _LazyModule()
