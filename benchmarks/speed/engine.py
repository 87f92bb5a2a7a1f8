"""The engine alone: compute and write a plan. No verification, no hashing, no manifest.

    python benchmarks/speed/engine.py RECIPE OUT [--to-disk]

Prints the seconds from the plan to the last write into the page cache; with `--to-disk` until all
is flushed, with the journal's own flushes in between. Comparable with `floor.py`. Imports are not
counted, as there: start-up is measured by `benchmarks/planning.py`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import merge_core.kernels.cpu.computation  # noqa: F401 - imported when first used
from merge_core.engine.run import run_plan
from merge_core.output.staging import Staging
from merge_core.planning.plan import make_plan
from merge_core.recipes.loading import load_recipe
from merge_core.records import SourceCheckpoint
from merge_core.runtime.timings import Timings


class UnflushedStaging(Staging):
    """Leaves everything in the page cache."""

    def _sync(self) -> None:
        self._unsynced = 0

    def _begin_write_back(self, index: int) -> None:
        pass


def main(recipe_path: Path, out: Path, to_disk: bool) -> None:
    recipe = load_recipe(recipe_path)
    sources = {
        reference: SourceCheckpoint(reference=reference, path=reference, digest="", files=())
        for reference in recipe.references()
    }
    plan = make_plan(recipe, sources)
    timings = Timings()
    kind = Staging if to_disk else UnflushedStaging
    started = time.perf_counter()
    with kind(out, plan) as staging:
        staging.prepare()
        run_plan(plan, staging, timings=timings)
        for shard in plan.shards if to_disk else ():
            descriptor = os.open(staging.checkpoint / shard.name, os.O_RDONLY)
            os.fdatasync(descriptor)
            os.close(descriptor)
        print(time.perf_counter() - started)
    print(timings, file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] == ["--to-disk"])
