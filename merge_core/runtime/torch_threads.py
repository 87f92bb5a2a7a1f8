"""torch in workers: one thread for each, so that threads change neither speed nor order of sums."""

from __future__ import annotations

import threading

from merge_core.runtime.lazy_torch import torch


class OneThreadEach:
    """While it lasts, workers that call `use_one` compute with one thread.

    torch is imported at the first such call, if nothing has imported it before.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before: int | None = None

    def __enter__(self) -> OneThreadEach:
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            torch.set_num_threads(self._before)

    def use_one(self) -> None:
        """To be called in the worker's own thread, before it uses torch."""
        with self._lock:
            if self._before is None:
                self._before = torch.get_num_threads()
            torch.set_num_threads(1)
