"""The floor of a merge: read every input once in blocks, write one output, compute nothing.

    python benchmarks/speed/floor.py OUT BASE MODEL [MODEL ...]

What a merge cannot go below: the same positioned reads of all inputs and the same positioned writes
of one output as large as the base, by as many threads, into the page cache. Prints the seconds it
took, and those with the output flushed to disk as a durable merge must.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BLOCK = 1 << 18
"""Bytes: 2**17 elements of 16 bits, the engine's own block."""
THREADS = min(8, len(os.sched_getaffinity(0)))
"""As many as the engine takes."""


def floor(out: Path, checkpoints: list[Path]) -> tuple[float, float]:
    """Copy the first checkpoint's weight files block by block, reading the others beside them."""
    out.mkdir(parents=True)
    jobs, outputs = [], []
    started = time.perf_counter()
    for shard in sorted(checkpoints[0].glob("*.safetensors")):
        inputs = [os.open(path / shard.name, os.O_RDONLY) for path in checkpoints]
        size = os.fstat(inputs[0]).st_size
        output = os.open(out / shard.name, os.O_WRONLY | os.O_CREAT)
        os.posix_fallocate(output, 0, size)
        outputs.append(output)
        jobs += [
            (inputs, output, start, min(BLOCK, size - start)) for start in range(0, size, BLOCK)
        ]
    parts = [jobs[index::THREADS] for index in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(_copy, parts))
    written = time.perf_counter() - started
    for output in outputs:
        os.fdatasync(output)
    return written, time.perf_counter() - started


def _copy(jobs: list[tuple[list[int], int, int, int]]) -> None:
    buffer = memoryview(bytearray(BLOCK))
    for inputs, output, start, count in jobs:
        for descriptor in reversed(inputs):
            os.preadv(descriptor, [buffer[:count]], start)
        os.pwrite(output, buffer[:count], start)


if __name__ == "__main__":
    print(*floor(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]]))
