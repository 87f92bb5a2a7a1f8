"""The floor of a merge: read every input once in blocks, write one output, compute nothing.

    python benchmarks/speed/floor.py OUT BASE MODEL [MODEL ...] [--to-disk]

What a merge cannot go below: the same positioned reads of all inputs and the same positioned writes
of one output as large as the base, by as many threads, into the page cache; with `--to-disk` until
it is flushed, as a durable merge must, the kernel having been told early to write. The calls are
made by the engine's own compiled loop: threads that call from Python wait for the interpreter's
lock, and a floor that does can take longer than the merge. Prints the seconds it took.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np

from merge_core.kernels.cpu.program import Program, reading, take, writing
from merge_core.output.write_back import begin_write_back

BLOCK = 1 << 18
"""Bytes: 2**17 elements of 16 bits, the engine's own block."""
THREADS = min(8, len(os.sched_getaffinity(0)))
"""As many as the engine takes."""
PART = 1 << 24
"""Bytes that a thread copies at once, after which the kernel is told to begin writing them."""


def floor(out: Path, checkpoints: list[Path], to_disk: bool) -> float:
    """Copy the first checkpoint's weight files block by block, reading the others beside them."""
    out.mkdir(parents=True)
    with Path(__file__).open("rb") as file:  # has the loop loaded, or compiled
        take([reading(file.fileno(), np.empty(1, np.uint8), 0, _failed)], 0)
    jobs, outputs = [], []
    started = time.perf_counter()
    for shard in sorted(checkpoints[0].glob("*.safetensors")):
        inputs = [os.open(path / shard.name, os.O_RDONLY) for path in checkpoints]
        sizes = [os.fstat(descriptor).st_size for descriptor in inputs]
        size = sizes[0]
        if min(sizes) < size:
            raise SystemExit(f"{shard.name} is shorter in another checkpoint")
        output = os.open(out / shard.name, os.O_WRONLY | os.O_CREAT)
        os.posix_fallocate(output, 0, size)
        outputs.append(output)
        jobs += [(inputs, output, start, min(PART, size - start)) for start in range(0, size, PART)]
    # Runs of files for each thread: two that write to the same file wait for each other.
    ends = [len(jobs) * index // THREADS for index in range(THREADS + 1)]
    parts = [jobs[first:last] for first, last in pairwise(ends)]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(_copy, parts, [to_disk] * THREADS))
    for output in outputs if to_disk else ():
        os.fdatasync(output)
    return time.perf_counter() - started


def _copy(jobs: list[tuple[list[int], int, int, int]], to_disk: bool) -> None:
    buffer = np.empty(BLOCK, np.uint8)
    for inputs, output, start, count in jobs:
        for first, size in ((0, BLOCK), (count // BLOCK * BLOCK, count % BLOCK)):
            if size and first < count:
                block, place = buffer[:size], start + first
                steps = [
                    reading(descriptor, block, place, _failed) for descriptor in reversed(inputs)
                ]
                program = Program([*steps, writing(output, block, place, _failed)], place, size)
                program.run(0, (count - first) // size)
        if to_disk:
            begin_write_back(output, start, count)


def _failed(place: int) -> None:
    raise OSError(f"the system refused something at byte {place}")


if __name__ == "__main__":
    places = [Path(argument) for argument in sys.argv[1:] if argument != "--to-disk"]
    print(floor(places[0], places[1:], "--to-disk" in sys.argv))
