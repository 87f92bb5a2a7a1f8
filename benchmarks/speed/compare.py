"""mergeflow, mergekit and the floor side by side: the same merges, alternately, in one run.

    python benchmarks/make_checkpoints.py benchmarks/work --models 3
    python benchmarks/speed/compare.py benchmarks/work/llama-1b --out docs/benchmarks

Every figure is of a whole process: imports, planning, hashing, writing. `engine` is mergeflow
without its verification and hashing, to see what they cost. mergekit lives in an environment of its
own (benchmarks/parity/README.md); without it its columns stay empty. The page cache is warmed
first. Rounds go through all contenders in turn, so that a slow minute of the machine hits all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
MERGEKIT = HERE.parent / ".venv-mergekit" / "bin" / "mergekit-yaml"
METHODS: dict[str, dict[str, object]] = {
    "linear": {"weight": 1.0},
    "slerp": {"t": 0.5},
    "task_arithmetic": {"weight": 0.4},
    "dare_linear": {"weight": 0.4, "density": 0.3},
    "ties": {"weight": 0.5, "density": 0.2},
    "breadcrumbs": {"weight": 0.5, "density": 0.3},
    "sce": {"select_topk": 0.3},
    "della": {"weight": 0.5, "density": 0.5},
}


@dataclass(frozen=True)
class Cost:
    """What one process took: wall and CPU seconds, peak resident set in MB."""

    wall: float
    cpu: float
    peak: float


@dataclass(frozen=True)
class Contest:
    """The checkpoints that are merged and a directory to work in."""

    checkpoints: list[Path]
    work: Path

    def recipe(self, method: str) -> Path:
        """A recipe that both tools read, over as many models as the method takes."""
        base, *models = self.checkpoints
        chosen = models[:1] if method == "slerp" else models
        content: dict[str, object] = {
            "merge_method": method,
            "models": [{"model": str(path)} for path in chosen],
            "parameters": METHODS[method],
            "dtype": "bfloat16",
        }
        if method != "linear":
            content["base_model"] = str(base)
        path = self.work / f"{method}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def inputs(self, method: str) -> list[Path]:
        """The checkpoints that a recipe reads."""
        base, *models = self.checkpoints
        if method == "linear":
            return models
        return [base, *(models[:1] if method == "slerp" else models)]

    def command(self, contender: str, method: str, out: Path) -> list[str]:
        """The process that one contender is."""
        if contender == "floor":
            return [
                sys.executable,
                str(HERE / "floor.py"),
                str(out),
                *map(str, self.inputs(method)),
            ]
        recipe = str(self.recipe(method))
        if contender == "mergekit":
            return [str(MERGEKIT), recipe, str(out), "--allow-crimes", "--quiet"]
        if contender == "engine":
            return [sys.executable, str(HERE / "engine.py"), recipe, str(out)]
        return [sys.executable, "-m", "flows.cli", "merge", recipe, str(out)]


def run(command: list[str], home: Path) -> Cost:
    """Run a process to its end.

    Raises:
        SystemExit: it failed.
    """
    started = time.monotonic()
    child = subprocess.Popen(
        command,
        env=os.environ | {"MERGEFLOW_HOME": str(home), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"failed with status {status}: {' '.join(command)}")
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(time.monotonic() - started, cpu, usage.ru_maxrss / 1024)


def rounds(
    contest: Contest, methods: list[str], contenders: list[str], count: int
) -> Iterator[tuple[str, str, Cost]]:
    """Every contender's cost of every method, in turn, `count` times."""
    for number in range(count):
        for method in methods:
            for contender in contenders:
                out = contest.work / "out"
                # Hashes of the inputs are remembered between runs; a first merge has none.
                home = contest.work / "home"
                shutil.rmtree(home, ignore_errors=True)
                home.mkdir()
                cost = run(contest.command(contender, method, out), home)
                shutil.rmtree(out)
                print(f"{number + 1} {method:16}{contender:10}{cost.wall:8.1f} s", flush=True)
                yield method, contender, cost


def table(costs: dict[str, dict[str, list[Cost]]], contenders: list[str]) -> str:
    """Medians as Markdown, with ratios to the floor and to mergekit."""
    text = "| method | " + " | ".join(f"{name} s" for name in contenders)
    text += " | CPU s | peak MB | engine / floor | mergekit / mergeflow |\n"
    text += "|---" * (len(contenders) + 5) + "|\n"
    for method, by_contender in costs.items():
        wall = {name: _median([c.wall for c in found]) for name, found in by_contender.items()}
        ours = by_contender["mergeflow"]
        row = [method, *(f"{wall[name]:.1f}" for name in contenders)]
        row += [f"{_median([c.cpu for c in ours]):.0f}", f"{max(c.peak for c in ours):.0f}"]
        row.append(f"{wall['engine'] / wall['floor']:.2f}")
        row.append(f"{wall['mergekit'] / wall['mergeflow']:.1f}" if "mergekit" in wall else "")
        text += "| " + " | ".join(row) + " |\n"
    return text


def _median(values: list[float]) -> float:
    return statistics.median(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoints", type=Path, help="directory that holds base, model-1, ...")
    parser.add_argument("--out", type=Path, help="directory for the table and the raw figures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--without", nargs="*", default=[], help="contenders to leave out")
    options = parser.parse_args()
    found = sorted(path.absolute() for path in options.checkpoints.iterdir() if path.is_dir())
    checkpoints = [path for path in found if (path / "config.json").exists()][:3]
    work = options.checkpoints.absolute() / "speed"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    contenders = [
        name
        for name in ("floor", "engine", "mergeflow", "mergekit")
        if name not in options.without and (name != "mergekit" or MERGEKIT.exists())
    ]
    for path in checkpoints:
        for shard in path.glob("*.safetensors"):
            with shard.open("rb") as file:
                while file.read(1 << 24):
                    pass
    costs: dict[str, dict[str, list[Cost]]] = {}
    contest = Contest(checkpoints, work)
    for method, contender, cost in rounds(contest, options.methods, contenders, options.rounds):
        costs.setdefault(method, {}).setdefault(contender, []).append(cost)
    shutil.rmtree(work)
    size = sum(path.stat().st_size for path in checkpoints[0].glob("*.safetensors")) / 1e9
    text = (
        f"# Speed, side by side\n\nMedians of {options.rounds} rounds, whole processes, warm page"
        f" cache: {len(checkpoints)} bf16 checkpoints of {size:.2f} GB"
        f" (`{options.checkpoints.name}`), {len(os.sched_getaffinity(0))} cores,"
        f" {platform.machine()}, Python {platform.python_version()}.\n\n"
        + table(costs, contenders)
        + "\n`floor` reads all inputs once and writes the result, and computes nothing. `engine` is"
        " the merge without verification and hashing. CPU and peak are mergeflow's.\n"
    )
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "speed.md").write_text(text)
        raw = {m: {c: [vars(x) for x in xs] for c, xs in by.items()} for m, by in costs.items()}
        (options.out / "speed.json").write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
