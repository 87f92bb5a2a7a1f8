"""Work in threads: what one failure does to the rest."""

from __future__ import annotations

import threading
import time

import pytest

from merge_core.runtime.threads import all_at_once


def test_what_begins_only_after_a_failure_is_stopped_too() -> None:
    running, began, stopped = threading.Event(), threading.Event(), threading.Event()

    def work(number: int) -> bool:
        if number == 0:
            assert running.wait(20)
            raise ValueError("the first to fail")
        running.set()
        time.sleep(0.2)
        began.set()
        return stopped.wait(20)

    def stop() -> None:
        if began.is_set():
            stopped.set()

    with pytest.raises(ValueError, match="the first to fail"):
        all_at_once(work, range(2), 2, stop)
    assert stopped.is_set()


def test_what_has_not_begun_does_not_begin_after_a_failure() -> None:
    began = []

    def work(number: int) -> None:
        began.append(number)
        raise ValueError(str(number))

    with pytest.raises(ValueError, match="0"):
        all_at_once(work, range(50), 1, lambda: None)
    assert len(began) < 50


def test_results_come_in_the_order_of_the_items() -> None:
    def work(number: int) -> int:
        time.sleep((5 - number) / 100)
        return number

    assert all_at_once(work, range(5), 5, lambda: None) == [0, 1, 2, 3, 4]
