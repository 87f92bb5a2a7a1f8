"""Peak memory of `mergeflow merge` on checkpoints of a real model's shape.

    python benchmarks/make_checkpoints.py benchmarks/work
    python benchmarks/peak_memory.py benchmarks/work/llama-1b --table docs/benchmarks/memory.md

Each merge is a process of its own; its peak resident set is what the kernel reports when it ends
(torch's import and everything else counted). Exit status 1 when any is above the limit.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

LIMIT_MB = 512
METHODS: dict[str, dict[str, object]] = {
    "linear": {"weight": 1.0},
    "task_arithmetic": {"weight": 0.4},
    "ties": {"weight": 0.5, "density": 0.2},
    "dare_linear": {"weight": 0.4, "density": 0.3},
    "dare_ties": {"weight": 0.4, "density": 0.3},
    "slerp": {"t": 0.5},
}


def measure(method: str, checkpoints: list[Path], home: Path) -> tuple[float, float]:
    """Run one merge; returns (peak resident set in MB, wall seconds)."""
    base, *models = checkpoints
    recipe = {
        "merge_method": method,
        "base_model": str(base),
        "models": [{"model": str(path)} for path in (models[:1] if method == "slerp" else models)],
        "parameters": METHODS[method],
    }
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        path = Path(scratch) / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        command = [
            sys.executable,
            "-m",
            "flows.cli",
            "merge",
            str(path),
            str(Path(scratch) / "out"),
        ]
        start = time.monotonic()
        child = subprocess.Popen(
            command,
            env=os.environ | {"MERGEFLOW_HOME": str(home)},
            stdout=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(child.pid, 0)
        if status != 0:
            raise SystemExit(f"{method}: the merge failed with status {status}")
        return usage.ru_maxrss / 1024, time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoints", type=Path, help="directory that holds base, model-1, ...")
    parser.add_argument("--table", type=Path, help="write the table to this file too")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    options = parser.parse_args()
    found = sorted(path.absolute() for path in options.checkpoints.iterdir() if path.is_dir())
    checkpoints = [path for path in found if (path / "config.json").exists()]
    home = options.checkpoints.absolute() / "home"
    home.mkdir(exist_ok=True)
    weights = sum(path.stat().st_size for path in checkpoints[0].glob("*.safetensors"))
    rows = [(method, *measure(method, checkpoints, home)) for method in options.methods]
    shutil.rmtree(home)
    table = (
        f"# Peak memory of `mergeflow merge`\n\n{len(checkpoints)} bf16 checkpoints of"
        f" {weights / 1e9:.2f} GB each (`{options.checkpoints.name}`),"
        f" {len(os.sched_getaffinity(0))} cores, {platform.machine()}."
        f" The limit is {LIMIT_MB} MB; torch's import is counted.\n\n"
        "| method | peak MB | wall s (hashing of inputs and output counted) |\n|---|---|---|\n"
        + "".join(f"| {method} | {peak:.0f} | {wall:.0f} |\n" for method, peak, wall in rows)
        + f"\nMade by `python benchmarks/peak_memory.py benchmarks/work/{options.checkpoints.name}"
        f" --methods {' '.join(options.methods)}`.\n"
    )
    print(table)
    if options.table:
        options.table.parent.mkdir(parents=True, exist_ok=True)
        options.table.write_text(table)
    if any(peak > LIMIT_MB for _, peak, _ in rows):
        raise SystemExit(f"above the limit of {LIMIT_MB} MB")


if __name__ == "__main__":
    main()
