"""How much TIES differs from mergekit's where magnitudes tie, as they do in bfloat16.

Differences of bfloat16 checkpoints are a few steps of their format, so a threshold falls among
thousands of equal magnitudes: mergekit's sort leaves their order open, here the first count. Makes
a base and two fine-tunes with realistic task vectors, merges them with mergekit and with the
method's own expressions, and prints what differs. Runs in mergekit's environment (`make bench`
makes it): benchmarks/.venv-mergekit/bin/python benchmarks/parity/equal_magnitudes.py
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from merge_core.methods.base import Block, TensorJob  # noqa: E402
from merge_core.methods.task_arithmetic import Ties  # noqa: E402
from merge_core.reductions.constants import CHUNK  # noqa: E402
from tests.conformance.parity_cases import llama_config  # noqa: E402

SIZE, VOCABULARY = 512, 2048
SPREAD = 0.02
"""Standard deviation of a weight, as transformers initialises it."""
STEPS = (2e-4, 5e-4, 1e-3)
"""Standard deviations of what a fine-tune changes: 1 to 5 % of the weights' own."""
DENSITY, WEIGHT = 0.5, 0.5


def main() -> None:
    """Print a table: share of entries that differ, and the norm of the difference."""
    torch.set_num_threads(1)
    print(f"mergekit {_version()}, torch {torch.__version__}; density {DENSITY}, bfloat16")
    print(
        "step     entries that differ   of the task vector's norm   of equal magnitude at the end"
    )
    for step in STEPS:
        with tempfile.TemporaryDirectory() as scratch:
            os.chdir(scratch)
            models = _write(Path(scratch), step)
            theirs = _mergekit(Path(scratch), step)
            differing = entries = tied = 0
            distance = length = 0.0
            for name, base in models["base"].items():
                ours, at_threshold = _ours(name, base, [models["a"][name], models["b"][name]])
                differing += int((ours != theirs[name]).sum())
                entries += base.numel()
                tied += at_threshold
                distance += float((ours.double() - theirs[name].double()).square().sum())
                length += float((theirs[name].double() - base.double()).square().sum())
        share = (distance / length) ** 0.5
        print(f"{step:<8g} {differing / entries:>12.2%} {share:>24.1%} {tied / entries / 2:>24.1%}")


def _write(root: Path, step: float) -> dict[str, dict[str, torch.Tensor]]:
    shapes = {
        "model.embed_tokens.weight": (VOCABULARY, SIZE),
        "model.layers.0.self_attn.q_proj.weight": (SIZE, SIZE),
        "model.layers.0.self_attn.k_proj.weight": (SIZE, SIZE),
        "model.layers.0.self_attn.v_proj.weight": (SIZE, SIZE),
        "model.layers.0.self_attn.o_proj.weight": (SIZE, SIZE),
        "model.layers.0.mlp.gate_proj.weight": (2 * SIZE, SIZE),
        "model.layers.0.mlp.up_proj.weight": (2 * SIZE, SIZE),
        "model.layers.0.mlp.down_proj.weight": (SIZE, 2 * SIZE),
        "model.layers.0.input_layernorm.weight": (SIZE,),
        "model.layers.0.post_attention_layernorm.weight": (SIZE,),
        "model.norm.weight": (SIZE,),
        "lm_head.weight": (VOCABULARY, SIZE),
    }
    generator = torch.Generator().manual_seed(7)
    origin = {
        name: SPREAD * torch.randn(shape, generator=generator) for name, shape in shapes.items()
    }
    config = llama_config(1, "bfloat16") | {
        "hidden_size": SIZE,
        "intermediate_size": 2 * SIZE,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": SIZE // 8,
        "vocab_size": VOCABULARY,
    }
    models = {}
    for name in ("base", "a", "b"):
        scale = 0.0 if name == "base" else step
        models[name] = {
            key: (value + scale * torch.randn(value.shape, generator=generator)).bfloat16()
            for key, value in origin.items()
        }
        place = root / _directory(name, step)
        place.mkdir()
        save_file(models[name], place / "model.safetensors", metadata={"format": "pt"})
        (place / "config.json").write_text(json.dumps(config))
    return models


def _directory(name: str, step: float) -> str:
    """mergekit remembers what it loaded by its name."""
    return f"{name}-{step:g}"


def _mergekit(root: Path, step: float) -> dict[str, torch.Tensor]:
    parameters = {"weight": WEIGHT, "density": DENSITY}
    recipe = {
        "merge_method": "ties",
        "base_model": _directory("base", step),
        "models": [
            {"model": _directory(name, step), "parameters": parameters} for name in ("a", "b")
        ],
        "parameters": {"normalize": True},
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }
    options = MergeOptions(
        copy_tokenizer=False, write_model_card=False, device="cpu", quiet=True, num_threads=1
    )
    run_merge(MergeConfiguration.model_validate(recipe), str(root / "out"), options)
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted((root / "out").glob("*.safetensors")):
        tensors |= load_file(shard)
    return tensors


def _ours(name: str, base: torch.Tensor, models: list[torch.Tensor]) -> tuple[torch.Tensor, int]:
    """The merged tensor, and how many entries have just the magnitude of the last that stays."""
    settings = {"weight": WEIGHT, "density": DENSITY}
    shared = {parameter.name: parameter.default for parameter in Ties.recipe_wide()}
    job = TensorJob(name, base.numel(), (settings, settings), shared, (), tuple(base.shape))
    kernel = Ties().kernel(job)
    flat = [tensor.double().reshape(-1) for tensor in (base, *models)]
    starts = range(0, base.numel(), CHUNK)
    blocks = [
        Block(start, flat[0][start : start + CHUNK], [m[start : start + CHUNK] for m in flat[1:]])
        for start in starts
    ]
    for index in range(kernel.passes):
        for block in blocks:
            kernel.observe(index, block)
        kernel.conclude(index)
    merged = torch.cat([kernel.combine(block) for block in blocks]).bfloat16().view(base.shape)
    tied = 0
    for model in flat[1:]:
        sizes = (model - flat[0]).abs()
        kept = max(1, int(DENSITY * sizes.numel()))
        tied += int((sizes == sizes.sort(descending=True).values[kept - 1]).sum())
    return merged, tied


def _version() -> str:
    try:
        return version("mergekit")
    except PackageNotFoundError:
        return "of a checkout"


if __name__ == "__main__":
    main()
