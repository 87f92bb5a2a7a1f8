"""mergeflow, mergekit and the floor side by side: the same merges, alternately, in one run.

    python benchmarks/make_checkpoints.py benchmarks/work --models 3
    python benchmarks/speed/compare.py benchmarks/work/llama-1b --out docs/benchmarks

The page cache is warmed before each, where it can hold all. Rounds go through all contenders in
turn, so that a slow minute of the machine hits all. mergekit lives in an environment of its own
(benchmarks/parity/README.md); without it its columns stay empty.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from dataclasses import asdict
from pathlib import Path

from contest import CONTENDERS, MERGEKIT, METHODS, Contest
from report import Costs, plot, table

NOTES = """
`floor` reads all inputs once and writes the result, and computes nothing; `engine` is the merge
without verification and hashing; both to the page cache, and, `to disk`, until all is flushed, both
telling the kernel early to write. The other columns are
whole processes, imports and all: `mergeflow` verifies, merges, hashes the result and flushes it;
`first` hashes the inputs too, which it never saw before; mergekit hashes, verifies and flushes
nothing. CPU seconds are those of `mergeflow`, the peak is the larger of both.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoints", type=Path, help="directory that holds base, model-1, ...")
    parser.add_argument("--out", type=Path, help="directory for table, plot and raw figures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mergekit-rounds", type=int, default=1, help="it may take minutes")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--without", nargs="*", default=[], choices=CONTENDERS)
    parser.add_argument("--limit", type=float, default=900, help="seconds until a process is ended")
    options = parser.parse_args()
    found = sorted(path.absolute() for path in options.checkpoints.iterdir() if path.is_dir())
    checkpoints = [path for path in found if (path / "config.json").exists()][:3]
    work = options.checkpoints.absolute() / "speed"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    contest = Contest(checkpoints, work, options.limit)
    contenders = [name for name in CONTENDERS if name not in options.without]
    if not MERGEKIT.exists():
        contenders = [name for name in contenders if name != "mergekit"]
    costs: Costs = {}
    for number in range(options.rounds):
        for method in options.methods:
            for contender in contenders:
                if contender == "mergekit" and number >= options.mergekit_rounds:
                    continue
                cost = contest.run(contender, method)
                costs.setdefault(method, {}).setdefault(contender, []).append(cost)
                own = "" if cost.own is None else f"  ({cost.own:.2f} s without imports)"
                print(f"{number + 1} {method:16}{contender:15}{cost.wall:8.1f} s{own}", flush=True)
    shutil.rmtree(work)
    write(costs, contest, options.out)


def write(costs: Costs, contest: Contest, out: Path | None) -> None:
    """Print the table; with `out` write it, its plot and the raw figures there."""
    checkpoints = contest.checkpoints
    name = checkpoints[0].parent.name
    size = sum(path.stat().st_size for path in checkpoints[0].glob("*.safetensors")) / 1e9
    cache = "warm page cache" if contest.fits_memory else "inputs larger than memory, from the disk"
    machine = (
        f"{len(checkpoints)} bf16 checkpoints of {size:.2f} GB (`{name}`),"
        f" {len(os.sched_getaffinity(0))} cores, {_processor()}, Python"
        f" {platform.python_version()}, {cache}, medians of {_rounds(costs)}"
    )
    text = f"# Speed, side by side: {name}\n\n{machine}.\n\n{table(costs)}{NOTES}"
    print(text)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        plot(costs, out / f"speed-{name}.png", machine)
        (out / f"speed-{name}.md").write_text(text + f"\n![The same as bars](speed-{name}.png)\n")
        raw = {m: {c: [asdict(x) for x in xs] for c, xs in by.items()} for m, by in costs.items()}
        (out / f"speed-{name}.json").write_text(json.dumps(raw, indent=1) + "\n")


def _rounds(costs: Costs) -> str:
    """How often each contender ran, in words."""
    counts = {name: len(runs) for by in costs.values() for name, runs in by.items()}
    most = max(counts.values())
    fewer = [f"{name}: {count}" for name, count in counts.items() if count < most]
    rounds = f"{most} rounds" if most > 1 else "one round"
    return rounds + (f" ({', '.join(fewer)})" if fewer else "")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), ""
    )
    return f"{model} ({'with' if 'sha_ni' in flags else 'without'} SHA instructions)"


if __name__ == "__main__":
    main()
