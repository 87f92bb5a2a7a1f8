"""Runs the same work on many pieces in a few threads, with results in order and bounded memory."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import TypeVar

from merge_core.runtime.lazy_torch import torch
from merge_core.runtime.processors import processors

_STOP_AGAIN = 0.5
T = TypeVar("T")
R = TypeVar("R")


def default_threads() -> int:
    """Processors this process may use, at most 16: more only wait for memory."""
    return min(16, processors())


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], threads: int, *, uses_torch: bool = True
) -> Generator[R, None, None]:
    """`function` of each item, in the items' order, computed by `threads` threads.

    At most `2 * threads` items are in work or waiting to be taken. Inside, torch uses one thread
    for each worker, so that sums do not depend on the machine's number of processors; a function
    without torch says so, and it is not loaded. Wrap the generator in `contextlib.closing` when the
    caller may leave early: that waits for the workers.
    """
    torch_threads = torch.get_num_threads() if uses_torch else 0
    remaining = iter(items)
    waiting: deque[Future[R]] = deque()
    initializer = (lambda: torch.set_num_threads(1)) if uses_torch else None
    pool = ThreadPoolExecutor(threads, initializer=initializer)
    try:
        for item in itertools.islice(remaining, 2 * threads):
            waiting.append(pool.submit(function, item))
        while waiting:
            yield waiting.popleft().result()
            for item in itertools.islice(remaining, 1):
                waiting.append(pool.submit(function, item))
    finally:
        pool.shutdown(cancel_futures=True)
        if uses_torch:
            torch.set_num_threads(torch_threads)


def all_at_once(
    function: Callable[[T], R], items: Iterable[T], threads: int, stop: Callable[[], None]
) -> list[R]:
    """`function` of each item, in the items' order; the first that fails ends all. Each call sees
    the caller's context variables.

    Args:
        stop: called when one has failed, or a person interrupts, until the others have ended: makes
            them end soon.
    """
    with ThreadPoolExecutor(threads) as pool:
        futures: list[Future[R]] = []
        try:
            futures += [pool.submit(copy_context().run, function, item) for item in items]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                if future in done:
                    future.result()
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            stop()
            while wait(futures, _STOP_AGAIN).not_done:
                stop()  # what one was just about to begin
            raise
