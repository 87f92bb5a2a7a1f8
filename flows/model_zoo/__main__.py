"""`python -m flows.model_zoo DIR`: build the zoo, and with `--measure` show what it shows."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from merge_core.errors import MergeflowError
from merge_core.progress import ProgressEvent


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.model_zoo", description=__doc__)
    parser.add_argument("directory", type=Path, help="where the zoo is, or is to be")
    parser.add_argument("--scale", choices=["demo", "tiny"], default="demo")
    parser.add_argument(
        "--measure", action="store_true", help="print held-out bits per byte of base and merges"
    )
    chosen = parser.parse_args(arguments)
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="true")

    from flows.model_zoo.zoo import build_zoo

    started = time.monotonic()
    try:
        zoo = build_zoo(chosen.directory, scale=chosen.scale, progress=ProgressLines())
    except MergeflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"model zoo in {zoo.directory} ({time.monotonic() - started:.0f} s)")
    if chosen.measure:
        from flows.model_zoo.measure import measure, show

        print(show(measure(zoo)))
    return 0


class ProgressLines:
    """A line for each stage, every 15 seconds and at its end, with rate and time left. Trainings
    run two at a time, so lines are never rewritten."""

    def __init__(self) -> None:
        self._stages: dict[str, tuple[float, int]] = {}
        self._due: dict[str, float] = {}

    def __call__(self, event: ProgressEvent) -> None:
        now = time.monotonic()
        started, first = self._stages.setdefault(event.stage, (now, event.done))
        finished = event.done >= event.total
        if not finished and now < self._due.setdefault(event.stage, now + 15):
            return
        self._due[event.stage] = now + 15
        rate = (event.done - first) / max(now - started, 1e-9)
        left = "done" if finished else f"{(event.total - event.done) / max(rate, 1):.0f} s left"
        amount = f"{event.done:>9,} of {event.total:,} {event.unit}"
        print(f"{event.stage:16}{amount}, {rate:,.0f} a second, {left}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
