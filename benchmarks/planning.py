"""How long it takes to plan a merge of 100 000 tensors, a large mixture of experts, and to start.

    python benchmarks/planning.py

Writes a base and two models into a temporary directory, as headers and empty (sparse) files: no
weight is read while planning, and they take no room on the disk. Prints medians of wall and of
processor time, everything from opening the first file on. Exit status 1 when a plan takes more
processor time than the limit. Start-up is the whole process of a merge of one small tensor.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from merge_core.planning.explain import explain, idle_filters
from merge_core.planning.layout import index_json, index_name, lay_out
from merge_core.planning.plan import make_plan, open_inputs
from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.recipe import Recipe
from merge_core.records import SourceCheckpoint
from merge_core.verification.tolerance import Tolerance
from merge_core.verification.verify import verify

LIMIT_SECONDS = 3.0
HIDDEN, INNER, VOCABULARY = 1024, 512, 32_000
EXPERTS = 512
SHARD_BYTES = 5_000_000_000
MODELS = ("base", "one", "two")
FILTERED = [
    {"group": "norms", "value": 0.0},
    {"glob": "*.experts.*.down_proj.*", "value": [0.2, 0.4, 0.3]},
    {"regex": r"layers\.[0-9]+\.self_attn", "value": 0.5},
    {"value": 0.4},
]
RECIPES: dict[str, dict[str, object]] = {
    "task_arithmetic": {"parameters": {"weight": 0.4}},
    "ties": {"parameters": {"weight": 0.5, "density": 0.2}},
    "ties, with filters and gradients": {"parameters": {"weight": FILTERED, "density": 0.2}},
    "dare_ties": {"parameters": {"weight": 0.5, "density": 0.2}},
}


def tensor_shapes(tensors: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a mixture of experts that has at least so many tensors."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    layer = 0
    while len(shapes) < tensors:
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {f"{prefix}.{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post")}
        shapes[f"{prefix}.mlp.gate.weight"] = (EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            for name, shape in (("gate", (INNER, HIDDEN)), ("up", (INNER, HIDDEN))):
                shapes[f"{prefix}.mlp.experts.{expert}.{name}_proj.weight"] = shape
            shapes[f"{prefix}.mlp.experts.{expert}.down_proj.weight"] = (HIDDEN, INNER)
        layer += 1
    return shapes | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


def write_checkpoint(directory: Path, shapes: Mapping[str, tuple[int, ...]]) -> SourceCheckpoint:
    """A checkpoint of zeros that takes no room; its digest is made up, not taken of them."""
    directory.mkdir()
    slots, shards = lay_out([(name, "BF16", shape) for name, shape in shapes.items()], SHARD_BYTES)
    for shard in shards:
        with (directory / shard.name).open("wb") as file:
            file.write(shard.header)
            file.truncate(shard.nbytes)
    if len(shards) > 1:
        (directory / index_name(shards)).write_bytes(index_json(slots, shards))
    config = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"}
    (directory / "config.json").write_text(json.dumps(config))
    digest = hashlib.sha256(directory.name.encode()).hexdigest()
    return SourceCheckpoint(reference=str(directory), path=str(directory), digest=digest, files=())


def recipe_of(name: str, directory: Path) -> dict[str, object]:
    """One of `RECIPES`, about the checkpoints in a directory."""
    base, *models = (str(directory / model) for model in MODELS)
    return {
        "merge_method": name.partition(",")[0],
        "base_model": base,
        "models": [{"model": model} for model in models],
        **RECIPES[name],
    }


def measure(work: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median wall and processor seconds."""
    walls, processors = [], []
    for _ in range(rounds):
        gc.collect()
        wall, processor = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return statistics.median(walls), statistics.median(processors)


def measure_command(
    arguments: list[str], home: Path, rounds: int, out: Path | None = None
) -> tuple[float, float]:
    """Median wall and processor seconds of a process `mergeflow ...`; `out` is removed after it.

    As where it is installed: bytecode and machine code are there from an earlier run, which does
    not count.
    """
    environment = os.environ | {
        "MERGEFLOW_HOME": str(home),
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(home / "bytecode"),
    }
    walls, processors = [], []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *arguments],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(child.pid, 0)
        if status != 0:
            raise SystemExit(f"mergeflow {arguments[0]} failed with status {status}")
        walls.append(time.perf_counter() - start)
        processors.append(usage.ru_utime + usage.ru_stime)
        if out is not None:
            shutil.rmtree(out)
    return statistics.median(walls[1:]), statistics.median(processors[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tensors", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        shapes = tensor_shapes(options.tensors)
        sources = [write_checkpoint(directory / model, shapes) for model in MODELS]
        by_reference = {source.reference: source for source in sources}
        print(
            f"{len(shapes):,} tensors, {len(sources)} checkpoints of"
            f" {len(list(sources[0].directory.glob('*.safetensors')))} shards;"
            f" {len(os.sched_getaffinity(0))} cores, {platform.machine()},"
            f" Python {platform.python_version()}; medians of {options.rounds}\n"
        )
        print("| step | wall s | processor s |\n|---|---|---|")
        recipes = {name: parse_recipe(recipe_of(name, directory)) for name in RECIPES}
        slowest = 0.0
        for name, recipe in recipes.items():
            seconds = measure(lambda recipe=recipe: make_plan(recipe, by_reference), options.rounds)
            slowest = max(slowest, seconds[1])
            _print(f"plan: {name}", seconds)
        filtered = recipes["ties, with filters and gradients"]
        _print(
            "warnings of idle filters",
            measure(lambda: _idle(filtered, by_reference), options.rounds),
        )
        tolerance = Tolerance.of(filtered)
        _print(
            "verify, without reading weights",
            measure(
                lambda: verify(sources[0], sources[1:], scan_weights=False, tolerance=tolerance),
                options.rounds,
            ),
        )
        file = directory / "recipe.yaml"
        file.write_text(yaml.safe_dump(recipe_of("ties, with filters and gradients", directory)))
        command = ["plan", str(file), "--json"]
        _print(
            "`mergeflow plan`, the whole process",
            measure_command(command, directory / "home", options.rounds),
        )
        small = directory / "small"
        small.mkdir()
        for model in MODELS:
            write_checkpoint(small / model, {"model.layers.0.mlp.up_proj.weight": (64, 64)})
        file.write_text(yaml.safe_dump(recipe_of("task_arithmetic", small)))
        out, home = small / "out", directory / "home"
        _print("`mergeflow --help`", measure_command(["--help"], home, options.rounds))
        _print(
            "`mergeflow merge` of one tensor",
            measure_command(["merge", str(file), str(out)], home, options.rounds, out),
        )
    if slowest > LIMIT_SECONDS:
        raise SystemExit(f"\na plan took {slowest:.1f} s; the limit is {LIMIT_SECONDS} s")


def _idle(recipe: Recipe, sources: Mapping[str, SourceCheckpoint]) -> list[str]:
    return list(idle_filters(recipe, explain(recipe, open_inputs(recipe, sources))))


def _print(step: str, seconds: tuple[float, float]) -> None:
    print(f"| {step} | {seconds[0]:.2f} | {seconds[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
