"""What an evaluation's time goes into: `python -m benchmarks.evaluation SUITE CHECKPOINT`.

A process of its own pays for all parts, a fork of one that is ready only for the last.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tasks.evaluation.measuring import Measuring
from tasks.evaluation.suite import load_suite
from tasks.evaluation.worker import job_of


def main() -> None:
    """Measure, and print seconds and shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", help="a shipped suite's name, or a directory")
    parser.add_argument("checkpoint", type=Path)
    asked = parser.parse_args()
    checkpoint = str(asked.checkpoint.absolute())
    job = job_of(load_suite(asked.suite))
    spent: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        spent[part] = time.perf_counter() - started

    with timed("libraries and documents"):
        measuring = Measuring(job)
    with timed("prompts and tokens"):
        measuring.prepare(checkpoint)
    whole = {
        "checkpoint": checkpoint,
        "device": "cpu",
        "batch_size": job["settings"]["batch_size"],
        "looks": None,
    }
    with timed("a checkpoint, in a fork"):
        child = os.fork()
        if child == 0:
            measuring.measure(whole, lambda message: None)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise SystemExit("the evaluation failed")
    for part, seconds in spent.items():
        print(f"{part:25s} {seconds:6.2f} s")
    share = spent["a checkpoint, in a fork"] / sum(spent.values())
    print(f"of a process of its own a fork takes {share:.2f}")


if __name__ == "__main__":
    main()
