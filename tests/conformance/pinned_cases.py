"""Small merges of every method, whose digests are kept in `pinned_digests.json`.

    python -m tests.conformance.pinned_cases            # print what differs from the kept table
    python -m tests.conformance.pinned_cases --write    # make the table anew

A change that is meant to keep bytes and plan digests must leave the table as it is. A new method
adds lines. Any other difference belongs to a change of the engine's version or of the files beside
the weights, and says so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from merge_core.checkpoints.sources import describe_adapter, describe_source, with_adapter
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.methods import METHODS
from merge_core.methods.calibrated import pack_gram
from merge_core.operations.execute import execute
from merge_core.planning.plan import make_plan
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from merge_core.runtime.compute import Compute
from tests.conformance.method_cases import CASES
from tests.support.adapters import write_adapter

TABLE = Path(__file__).with_name("pinned_digests.json")
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
SPECTRAL = frozenset({"iso_c", "iso_cts", "tsv_m", "star", "knots", "wudi", "regmean", "svc"})
"""Their last digits are those of the linear algebra library, which differ by processor."""

_LAYER = {
    "mlp.up_proj.weight": (24, 50),
    "mlp.down_proj.weight": (3, 8192),
    "input_layernorm.weight": (50,),
}
SHAPES = {
    "model.embed_tokens.weight": (300, 260),
    **{f"model.layers.{n}.{name}": shape for n in range(2) for name, shape in _LAYER.items()},
    "model.long.weight": (140_001,),
    "model.conv.weight": (4, 5, 13),
    "model.scale": (),
    "model.empty": (0,),
}
"""Rows of several lengths, more than a block and less, a single number, nothing at all."""

_WEIGHTED = [{"weight": 0.5}, {"weight": 0.3}, {"weight": 0.7}]


def recipes() -> dict[str, dict[str, Any]]:
    """Recipes by name: `METHOD` or `METHOD/what else`."""
    found: dict[str, dict[str, Any]] = {}
    for method, case in CASES.items():
        for settings in case.pinned:
            words = ",".join(f"{name}={value}" for name, value in settings.items())
            found[f"{method}/{words}" if words else method] = _recipe(method, settings)
    two = [{"model": "a"}, {"model": "b"}]
    found["stack"] = {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "a", "layer_range": [0, 2]}]},
            {"sources": [{"model": "b", "layer_range": [1, 2], "parameters": {"scale": 0.5}}]},
        ],
    }
    found["average"] = {"merge_method": "linear", "models": [*two, {"model": "c"}]}
    found["lora"] = {
        "merge_method": "ties",
        "base_model": "base",
        "models": [{"model": "base+adapter"}, {"model": "a"}],
        "parameters": {"weight": 0.5, "density": 0.5},
    }
    found["earlier recipe"] = _recipe("task_arithmetic", {}) | {
        "models": [{"model": "first", "parameters": {"weight": 0.5}}, {"model": "c"}],
        "parameters": {"weight": 0.4},
        "recipes": [_recipe("slerp", {"t": 0.3}) | {"name": "first"}],
    }
    density = [{"filter": "mlp", "value": 0.9}, {"value": 0.5}]
    found["filters, float16"] = _recipe("ties", {"density": 0.3}) | {
        "out_dtype": "float16",
        "parameters": {"density": density, "weight": [0.2, 0.8]},
    }
    lines = {"lines": {"alpha": 0.5, "beta": 0.4}}
    found["post-step"] = _recipe("task_arithmetic", {}) | {"post": [lines]}
    return found


def _recipe(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    method = METHODS[name]
    weighted = any(parameter.name == "weight" for parameter in method.per_model())
    recipe: dict[str, Any] = {
        "merge_method": name,
        "models": [
            {"model": model} | ({"parameters": dict(_WEIGHTED[place])} if weighted else {})
            for place, model in enumerate("abc"[: method.most_models])
        ],
        "parameters": dict(settings),
    }
    if method.calibration:
        recipe["calibration"] = {"data": "data.jsonl"}
    elif method.base == "required":
        recipe["base_model"] = "base"
    return recipe


def numbers(seed: int, *shape: int) -> torch.Tensor:
    """Numbers near a normal distribution, by integer arithmetic: the same on every machine."""
    count = max(1, int(np.prod(shape, dtype=np.int64)))
    raw = np.random.Philox(key=seed).random_raw(count)
    halves = [(raw >> np.uint64(16 * part)) & np.uint64(0xFFFF) for part in range(4)]
    whole = sum(half.astype(np.int64) for half in halves) - 2 * 0xFFFF
    values = whole.astype(np.float64) / 2.0**15
    size = int(np.prod(shape, dtype=np.int64))
    return torch.from_numpy(values[:size].reshape(shape))


class Bench:
    """A base, three experts and an adapter of one dtype, what was measured of them, and merges."""

    def __init__(self, root: Path, dtype: str) -> None:
        self.root = root
        self._count = 0
        kept = DTYPES[dtype]
        base = {name: numbers(n, *shape) for n, (name, shape) in enumerate(SHAPES.items())}
        models = {"base": base}
        for place, name in enumerate("abc"):
            models[name] = {
                key: values + 0.05 * numbers(100 * (place + 1) + n, *values.shape)
                for n, (key, values) in enumerate(base.items())
            }
        models["b"]["model.layers.0.mlp.up_proj.weight"][:4] = base[
            "model.layers.0.mlp.up_proj.weight"
        ][:4]
        self.sources = {
            name: self._written(name, {key: each.to(kept) for key, each in tensors.items()})
            for name, tensors in models.items()
        }
        module = "model.layers.0.mlp.up_proj"
        factors = {module: (numbers(900, 4, 50).float() / 8, numbers(901, 24, 4).float() / 8)}
        place = write_adapter(root / "adapter", factors)
        adapter = describe_adapter("adapter", place, DigestMemo(None))
        self.sources["base+adapter"] = with_adapter("base+adapter", self.sources["base"], adapter)

    def digests(self, name: str) -> dict[str, str]:
        """What a merge is known by: its plan, its object, and its weight files."""
        self._count += 1
        content = recipes()[name]
        recipe = parse_recipe(content)
        sources = {reference: self.sources[reference] for reference in recipe.references()}
        measured = {
            reference: self._measured(str(recipe.merge_method), reference)
            for reference in (sources if "calibration" in content else ())
        }
        plan = make_plan(recipe, sources, calibration=measured or None)
        out = self.root / f"out-{self._count}"
        manifest = execute(
            plan, sources, home=Home(self.root / "home"), out=out, compute=Compute(threads=2)
        )
        weights = hashlib.sha256()
        for file in sorted(out.glob("*.safetensors")):
            weights.update(file.read_bytes())
        return {
            "plan": manifest.plan_digest,
            "object": manifest.object_id,
            "weights": weights.hexdigest(),
        }

    def _measured(self, method: str, reference: str) -> SourceCheckpoint:
        seed = 1000 + "abc".index(reference) * 100
        name = f"measured-{method}-{reference}"
        tensors: dict[str, torch.Tensor]
        if method == "lm_cocktail":
            tensors = {"*": torch.tensor([2.0 + 0.25 * "abc".index(reference)]).double()}
        elif method == "fisher":
            tensors = {
                key: numbers(seed + n, *shape) ** 2 for n, (key, shape) in enumerate(SHAPES.items())
            }
        else:
            inputs = numbers(seed, 80, 50)
            gram = inputs.T @ inputs / 80
            keys = [f"model.layers.{n}.mlp.up_proj.weight" for n in range(2)]
            tensors = {key: pack_gram(gram, axis=1) for key in keys}
        if not (self.root / name).exists():
            return self._written(name, tensors)
        return describe_source(name, self.root / name, DigestMemo(None))

    def _written(self, name: str, tensors: Mapping[str, torch.Tensor]) -> SourceCheckpoint:
        directory = self.root / name
        directory.mkdir(parents=True)
        save_file(dict(tensors), directory / "model.safetensors", metadata={"format": "pt"})
        config = {"model_type": "llama", "num_hidden_layers": 2}
        (directory / "config.json").write_text(json.dumps(config))
        return describe_source(name, directory, DigestMemo(None))


def is_exact(name: str) -> bool:
    """Whether a merge has the same bytes on every processor."""
    return name.split("/")[0] not in SPECTRAL


def here() -> str:
    """The processor and the library on which bytes of decompositions depend."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    found: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    words = [found.get(key, "?") for key in ("vendor_id", "cpu family", "model")]
    return " ".join([*words, platform.machine(), "torch", torch.__version__])


def compute() -> Iterator[tuple[str, dict[str, str]]]:
    """Every case, `NAME, DTYPE`, with its digests."""
    for dtype in DTYPES:
        with tempfile.TemporaryDirectory() as root:
            bench = Bench(Path(root), dtype)
            for name in recipes():
                yield f"{name}, {dtype}", bench.digests(name)


def main() -> None:
    """Print what differs, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="make the table anew")
    found = dict(compute())
    if parser.parse_args().write:
        TABLE.write_text(json.dumps({"made on": here(), "merges": found}, indent=1) + "\n")
        return
    kept = json.loads(TABLE.read_text())["merges"]
    differing = [name for name in {**kept, **found} if kept.get(name) != found.get(name)]
    for name in differing:
        print(f"{name}\n  kept  {kept.get(name)}\n  found {found.get(name)}")
    print(f"{len(found)} merges, {len(differing)} differ")
    raise SystemExit(bool(differing))


if __name__ == "__main__":
    main()
