"""Making and mending situations: recipes, configs and checkpoints of the directory `here`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.support.checkpoints import write_checkpoint
from tests.support.followed_mends import Step

Tensors = dict[str, torch.Tensor]
Situation = Callable[[Path], Iterator[Step]]
LAYERS = 4
VERIFY = ("verify", "recipe.yaml")
PLAN = ("plan", "recipe.yaml")
MERGE = ("merge", "recipe.yaml", "out")


def situations(module: Mapping[str, Any]) -> list[Situation]:
    """The functions of a module that make a situation: generators of steps, in order."""
    return [
        value
        for name, value in module.items()
        if callable(value)
        and getattr(value, "__module__", None) == module["__name__"]
        and getattr(value, "__annotations__", {}).get("return") == "Iterator[Step]"
    ]


def tensors_of(seed: int, scale: float = 1.0, rows: int = 8) -> Tensors:
    """A small model: an embedding, a head, and layers of two matrices and a norm."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    tensors = {"model.embed_tokens.weight": drawn(rows, 8), "lm_head.weight": drawn(rows, 8)}
    for layer in range(LAYERS):
        tensors[f"model.layers.{layer}.mlp.up_proj.weight"] = drawn(8, 8)
        tensors[f"model.layers.{layer}.self_attn.q_proj.weight"] = drawn(8, 8)
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = drawn(8)
    return tensors


def fine_tune(base: Tensors, seed: int) -> Tensors:
    """What little training makes of a model."""
    change = tensors_of(seed, 0.02, len(base["lm_head.weight"]))
    return {name: tensor + change[name] for name, tensor in base.items()}


def recipe(here: Path, **keys: Any) -> None:
    """Write recipe.yaml: the mean of a and b, but for what is given."""
    content = {"merge_method": "linear", "models": [{"model": "./a"}, {"model": "./b"}]} | keys
    (here / "recipe.yaml").write_text(yaml.safe_dump(content))


def on_base(here: Path, *models: str, **keys: Any) -> None:
    """Write recipe.yaml: task vectors of a and b on base, but for what is given."""
    listed = [{"model": each, "parameters": {"weight": 0.5}} for each in models or ("./a", "./b")]
    usual = {"merge_method": "task_arithmetic", "base_model": "./base", "models": listed}
    recipe(here, **(usual | keys))


def config(directory: Path, **keys: Any) -> None:
    """Write config.json."""
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"} | keys))


def rewrite(directory: Path, change: Callable[[Tensors], object]) -> None:
    """Change a checkpoint's tensors."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def again(here: Path, name: str, shards: int = 1) -> None:
    """Fetch a checkpoint again: as it was published."""
    shutil.rmtree(here / name, ignore_errors=True)
    tensors = tensors_of(0)
    if name != "base":
        tensors = fine_tune(tensors, " ab".index(name))
    write_checkpoint(here / name, tensors, shards=shards)


def replaced(here: Path, name: str, tensors: Tensors) -> None:
    """Put another checkpoint in the place of one."""
    shutil.rmtree(here / name, ignore_errors=True)
    write_checkpoint(here / name, tensors)
