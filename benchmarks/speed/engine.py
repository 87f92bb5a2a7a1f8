"""The engine alone: plan, compute, write. No verification, no hashing, no manifest.

python benchmarks/speed/engine.py RECIPE OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from merge_core.engine import run_plan
from merge_core.plan import make_plan
from merge_core.recipe import load_recipe
from merge_core.records import SourceCheckpoint
from merge_core.staging import Staging


def main(recipe_path: Path, out: Path) -> None:
    recipe = load_recipe(recipe_path)
    sources = {
        reference: SourceCheckpoint(reference=reference, path=reference, digest="", files=())
        for reference in recipe.references()
    }
    plan = make_plan(recipe, sources)
    with Staging(out, plan) as staging:
        staging.prepare()
        run_plan(plan, staging)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
