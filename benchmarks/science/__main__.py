"""Train, merge, evaluate, and write what was seen of published claims.

    python -m benchmarks.science --out docs/science.md --plots docs/images/science
    python -m benchmarks.science --quick

What was trained and measured is kept by its content, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.science", description=__doc__)
    parser.add_argument("--out", type=Path, help="the Markdown file to write")
    parser.add_argument("--plots", type=Path, help="the directory of its pictures")
    parser.add_argument("--numbers", type=Path, help="the JSON file of its numbers to write")
    parser.add_argument("--work", type=Path, help="where models and measurements are kept")
    parser.add_argument("--seeds", type=int, help="how many; 3, of a quick run 1")
    parser.add_argument("--quick", action="store_true", help="tiny models, which show nothing")
    parser.add_argument("--only", default="", help="experiments whose name contains this")
    chosen = parser.parse_args(arguments)
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

    from benchmarks.science.experiments import EXPERIMENTS
    from benchmarks.science.page import Run, numbers, page
    from benchmarks.science.pictures import picture
    from benchmarks.science.run import laboratories_of, run_all
    from benchmarks.science.sizes import FIRST_SEED, FULL, QUICK

    names = [name for name in EXPERIMENTS if chosen.only in name]
    count = (1 if chosen.quick else 3) if chosen.seeds is None else chosen.seeds
    if not names or count < 1:
        wrong = "--seeds has to be 1 or more" if names else f"no experiment has '{chosen.only}'"
        print(f"{wrong}; the experiments are {', '.join(EXPERIMENTS)}", file=sys.stderr)
        return 2
    size = QUICK if chosen.quick else FULL
    run = Run(size, range(FIRST_SEED, FIRST_SEED + count), chosen.quick)
    home = Path(os.environ.get("MERGEFLOW_HOME", ".mergeflow"))
    begun = time.monotonic()
    chapters = run_all(names, laboratories_of(run, chosen.work or home / "science"), size)
    beside = chosen.out.parent if chosen.out else Path()
    plots = os.path.relpath(chosen.plots, beside) if chosen.plots else "images"
    text = page(chapters, run, Path(plots).as_posix())
    if chosen.plots:
        chosen.plots.mkdir(parents=True, exist_ok=True)
        for name, chapter in chapters.items():
            (chosen.plots / f"{name}.png").write_bytes(picture(chapter.panels))
    if chosen.out:
        chosen.out.write_text(text)
    if chosen.numbers:
        chosen.numbers.write_text(numbers(chapters, run))
    print(text.partition("## All claims")[2])
    print(f"{(time.monotonic() - begun) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
