"""Steps in a compiled loop: what grows, what stops it, and who is asked then."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from merge_core.jit.calling_convention import Array
from merge_core.jit.kernel import StridedArgument, compiled
from merge_core.kernels.cpu.program import Program, Step, calling, reading, run_once, writing

COUNT, BLOCKS = 100, 7


def refused(start: int) -> None:
    raise AssertionError(f"asked about {start}")


@pytest.fixture
def numbers(tmp_path: Path) -> Iterator[int]:
    """A file of the numbers from 0 on, after eight bytes of something else."""
    path = tmp_path / "numbers"
    path.write_bytes(b"\xff" * 8 + np.arange(COUNT * BLOCKS, dtype=np.int16).tobytes())
    descriptor = os.open(path, os.O_RDWR)
    yield descriptor
    os.close(descriptor)


@compiled
def _add(values: Array, number: int, sums: Array) -> None:
    for i in range(values.size):
        values[i] += number
        sums[0] += values[i]


@compiled
def _all_below(values: Array, limit: int) -> bool:
    below = True
    for i in range(values.size):
        below &= values[i] < limit
    return below


@compiled
def _put_sum(first: int, second: int, total: Array) -> None:
    total[0] = first + second


def test_reads_calls_and_writes_move_on_from_block_to_block(numbers: int, tmp_path: Path) -> None:
    values, sums = np.empty(COUNT, np.int16), np.zeros(1, np.int64)
    with (tmp_path / "out").open("w+b") as out:
        steps = [
            reading(numbers, values, 8, refused),
            calling(_add, values, StridedArgument(1000, 10), sums),
            writing(out.fileno(), values, 16, refused),
        ]
        program = Program(steps, 0, COUNT)
        program.run(0, 3)
        program.run(3, BLOCKS)
        written = np.frombuffer(out.read(), np.int16)
    block = np.arange(COUNT * BLOCKS) // COUNT
    expected = np.arange(COUNT * BLOCKS) + 1000 + 10 * block
    assert (written[:8] == 0).all()
    assert (written[8:] == expected).all()
    assert sums[0] == expected.sum()
    assert program.seconds_reading > 0
    assert program.seconds_writing > 0


def test_a_result_that_is_false_is_told_and_the_loop_goes_on(numbers: int) -> None:
    values, asked = np.empty(COUNT, np.int16), []
    steps = [
        reading(numbers, values, 8, refused),
        calling(_all_below, values, 3 * COUNT, on_failure=asked.append),
    ]
    Program(steps, 5000, COUNT).run(0, BLOCKS)
    assert asked == [5000 + block * COUNT for block in range(3, BLOCKS)]


def test_what_is_raised_about_a_result_ends_the_loop(numbers: int) -> None:
    values, sums = np.empty(COUNT, np.int16), np.zeros(1, np.int64)
    steps = [
        reading(numbers, values, 8, refused),
        calling(_all_below, values, 3 * COUNT, on_failure=refused),
        calling(_add, values, 0, sums),
    ]
    with pytest.raises(AssertionError, match="asked about 300"):
        Program(steps, 0, COUNT).run(0, BLOCKS)
    assert sums[0] == np.arange(3 * COUNT).sum(), "the blocks before it"


def test_a_read_that_comes_short_is_done_again_by_the_interpreter(numbers: int) -> None:
    values, sums, asked = np.empty(COUNT, np.int16), np.zeros(1, np.int64), []

    def again(start: int) -> None:
        asked.append(start)
        values[:] = 1

    steps = [reading(numbers, values, 8, again), calling(_add, values, 0, sums)]
    Program(steps, 0, COUNT).run(BLOCKS - 1, BLOCKS + 2)
    assert asked == [BLOCKS * COUNT, (BLOCKS + 1) * COUNT]
    assert sums[0] == np.arange((BLOCKS - 1) * COUNT, BLOCKS * COUNT).sum() + 2 * COUNT


@pytest.mark.parametrize("transfer", [reading, writing])
def test_what_the_system_refuses_is_done_again_by_the_interpreter(
    transfer: Callable[..., Step],
) -> None:
    asked: list[int] = []
    run_once([transfer(-1, np.empty(COUNT, np.int16), 0, asked.append)], 40)
    assert asked == [40]


def test_arguments_are_looked_at_when_they_are_bound() -> None:
    shifted = np.zeros(9, np.uint8)[1:].view(np.int16)
    for odd in (np.ones(6, np.int16)[::2], np.ones((2, 2), np.int16), shifted):
        with pytest.raises(TypeError, match="contiguous, aligned arrays of one dimension"):
            calling(_add, odd, 1, np.zeros(1, np.int64))
    with pytest.raises(TypeError, match="kernels take no str"):
        calling(_add, "text", 1, np.zeros(1, np.int64))
    with pytest.raises(TypeError, match="only one argument can be strided"):
        calling(_put_sum, StridedArgument(0, 1), StridedArgument(0, 1), np.zeros(1, np.int64))


def test_transfers_look_at_their_arrays() -> None:
    constant = np.frombuffer(b"constant", np.uint8)
    with pytest.raises(TypeError, match="cannot be written to"):
        reading(0, constant, 0, refused)
    for transfer in (reading, writing):
        with pytest.raises(TypeError, match="not contiguous"):
            transfer(0, np.ones(6, np.int16)[::-1], 0, refused)


def test_a_result_is_neither_overlooked_nor_made_up() -> None:
    values = np.ones(1, np.int16)
    with pytest.raises(TypeError, match=r"_all_below is left out"):
        calling(_all_below, values, 1)
    with pytest.raises(TypeError, match="not the one that is expected"):
        calling(_add, values, 1, np.zeros(1, np.int64), on_failure=refused)


def test_the_arrays_live_as_long_as_their_steps() -> None:
    sums = np.zeros(1, np.int64)
    steps = [calling(_add, np.full(1 << 20, 3, np.int16), 0, sums) for _ in range(5)]
    for _ in range(5):
        np.full(1 << 20, 7, np.int16)
    run_once(steps, 0)
    assert sums[0] == 5 * 3 * (1 << 20)
