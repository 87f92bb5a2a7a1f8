"""torch, imported when it is first used: importing it takes seconds, and most commands do without.

Everywhere in this library: `from merge_core.runtime.lazy_torch import torch`. Code at the top level
of a module (tables, default values, decorators) must not use it, or importing that module loads
torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
else:

    class _LazyModule:
        """Looks like the module `torch`; the first attribute asked for imports it.

        Safe among threads: `import` holds the lock of the module, so that others wait until it is
        complete. From then on both share one namespace, and a look-up costs what it always does.
        """

        def __getattr__(self, name: str) -> Any:
            import torch

            self.__dict__ = torch.__dict__
            return getattr(torch, name)

        def __repr__(self) -> str:
            return "<torch, imported when first used>"

    torch = _LazyModule()
