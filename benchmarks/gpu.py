"""What a GPU reaches of what it could: transfers, kernels, whole merges.

    python benchmarks/make_checkpoints.py benchmarks/work --models 3
    python benchmarks/gpu.py benchmarks/work/llama-1b [--rounds 5]

Three ratios, each of two things measured in turns in one run, as medians:

* host to device: the bytes of inputs that a `linear` merge brings to the device in a second, the
  result hashed by nobody, against a plain copy from page-locked memory (wanted: 0.8);
* kernels: the bytes that a kernel reads and writes in a second, its inputs on the device, against
  a copy within the device's memory (wanted: 0.6);
* methods: a merge on the GPU against the same merge on the CPU, inputs in the page cache.

Without a GPU it says so and ends.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from merge_core.engine.run import run_plan
from merge_core.kernels.gpu.computation import Combining, Formula
from merge_core.output.staging import Staging
from merge_core.planning.plan import make_plan
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from merge_core.runtime.compute import Compute

COUNT = 1 << 26
"""Elements of what is copied and computed in memory."""
METHODS = ("linear", "task_arithmetic", "slerp", "ties", "dare_linear", "della", "sce")
FORMULAS = {
    "linear": Formula("weighted_sum", 2, (0.5, 0.5, 1.0), False),
    "task_arithmetic": Formula("task_vector_sum", 2, (0.6, 0.4, 1.0, 1.0), False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoints", type=Path, help="directory that holds base, model-1, ...")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here: nothing was measured")
    device = torch.device("cuda:0")
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}")
    measure_kernels(device, given.rounds)
    found = sorted(path.absolute() for path in given.checkpoints.iterdir() if path.is_dir())
    checkpoints = [path for path in found if (path / "config.json").exists()][:3]
    measure_merges(checkpoints, device, given.rounds)


def measure_kernels(device: torch.device, rounds: int) -> None:
    """Kernels and copies within the device's memory, by turns."""
    values = torch.randn(COUNT, device=device).to(torch.bfloat16)
    other = torch.empty_like(values)
    for name, formula in FORMULAS.items():
        combining = Combining(formula, "BF16", "BF16", device)
        stored = values.repeat(formula.inputs, 1)
        kernel, copy = [], []
        for _ in range(rounds):
            kernel.append(on_device(lambda c=combining, s=stored: c(s)))
            copy.append(on_device(lambda: other.copy_(values)))
        rate = (formula.inputs + 1) * values.nbytes / statistics.median(kernel)
        copied = 2 * values.nbytes / statistics.median(copy)
        print(f"kernel {name}: {rate / 1e9:.0f} of {copied / 1e9:.0f} GB/s, {rate / copied:.2f}")


def measure_merges(checkpoints: list[Path], device: torch.device, rounds: int) -> None:
    """Merges on the GPU, on the CPU, and plain copies to the device, by turns."""
    base, *models = checkpoints
    room = torch.empty(1 << 28, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(room, device=device)
    for method in METHODS:
        gpu, cpu, copy = [], [], []
        for _ in range(rounds):
            gpu.append(merged(method, base, models, "cuda"))
            cpu.append(merged(method, base, models, "cpu"))
            copy.append(on_device(lambda: target.copy_(room, non_blocking=True)))
        seconds = statistics.median(gpu)
        line = f"{method}: {seconds:.2f} s, on the CPU {statistics.median(cpu):.2f} s"
        if method == "linear":
            read = sum(file.stat().st_size for model in models for file in weights(model))
            copied = room.nbytes / statistics.median(copy)
            rate = read / seconds
            line += f"; {rate / 1e9:.1f} of {copied / 1e9:.1f} GB/s, {rate / copied:.2f}"
        print(line)


def merged(method: str, base: Path, models: list[Path], device: str) -> float:
    """Seconds that the engine takes: nothing is hashed."""
    chosen = models[:1] if method == "slerp" else models
    own = {} if method in ("slerp", "sce") else {"weight": 0.5}
    recipe = parse_recipe(
        {
            "merge_method": method,
            "models": [{"model": str(model), "parameters": own} for model in chosen],
            "parameters": {"t": 0.5} if method == "slerp" else {},
        }
        | ({} if method == "linear" else {"base_model": str(base)})
    )
    sources = {
        reference: SourceCheckpoint(reference=reference, path=reference, digest="", files=())
        for reference in recipe.references()
    }
    plan = make_plan(recipe, sources)
    with (
        tempfile.TemporaryDirectory(dir=base.parent) as room,
        Staging(Path(room) / "work", plan) as staging,
    ):
        staging.prepare()
        started = time.perf_counter()
        run_plan(plan, staging, Compute(device))
        return time.perf_counter() - started


def weights(checkpoint: Path) -> list[Path]:
    """Its weight files."""
    return sorted(checkpoint.glob("*.safetensors"))


def on_device(work: Callable[[], object]) -> float:
    """Seconds of the device for some work, the second time that it is done."""
    work()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


if __name__ == "__main__":
    main()
