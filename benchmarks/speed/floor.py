"""The floor of a merge: read every input once in blocks, write one output, compute nothing.

    python benchmarks/speed/floor.py OUT BASE MODEL [MODEL ...]

What a merge cannot go below on this disk: the same positioned reads of all inputs, the same
positioned writes of one output as large as the base, by two threads.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BLOCK = 1 << 19
THREADS = 2


def floor(out: Path, checkpoints: list[Path]) -> None:
    """Copy the first checkpoint's weight files block by block, reading the others beside them."""
    out.mkdir(parents=True)
    jobs = []
    for shard in sorted(checkpoints[0].glob("*.safetensors")):
        inputs = [os.open(path / shard.name, os.O_RDONLY) for path in checkpoints]
        size = os.fstat(inputs[0]).st_size
        output = os.open(out / shard.name, os.O_WRONLY | os.O_CREAT)
        os.posix_fallocate(output, 0, size)
        jobs += [
            (inputs, output, start, min(BLOCK, size - start)) for start in range(0, size, BLOCK)
        ]
    parts = [jobs[index::THREADS] for index in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(_copy, parts))


def _copy(jobs: list[tuple[list[int], int, int, int]]) -> None:
    buffer = memoryview(bytearray(BLOCK))
    for inputs, output, start, count in jobs:
        for descriptor in reversed(inputs):
            os.preadv(descriptor, [buffer[:count]], start)
        os.pwrite(output, buffer[:count], start)


if __name__ == "__main__":
    floor(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
