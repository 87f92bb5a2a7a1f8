"""Layers of different kinds have no mean: names, shapes and dtypes of every merged tensor agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from merge_core.errors import CompatibilityError
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from tests.support.checkpoints import run_recipe, write_checkpoint


def layered(directory: Path, kinds: list[str], seed: int = 0, **extra: Any) -> SourceCheckpoint:
    """A checkpoint whose layers are `dense`, `experts`, or dense with a width of its own (`6`)."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    tensors = {"model.embed_tokens.weight": noise(8, 4), "model.norm.weight": noise(4)}
    for layer, kind in enumerate(kinds):
        prefix = f"model.layers.{layer}"
        tensors[f"{prefix}.self_attn.q_proj.weight"] = noise(4, 4)
        if kind == "experts":
            for expert in range(2):
                tensors[f"{prefix}.mlp.experts.{expert}.up_proj.weight"] = noise(6, 4)
        else:
            width = 8 if kind in ("dense", "biased") else int(kind)
            tensors[f"{prefix}.mlp.up_proj.weight"] = noise(width, 4)
        if kind == "biased":
            tensors[f"{prefix}.mlp.up_proj.bias"] = noise(8)
    source = write_checkpoint(directory, {**tensors, **extra})
    config = {"model_type": "own", "num_hidden_layers": len(kinds), "hidden_size": 4}
    (directory / "config.json").write_text(json.dumps(config))
    return source


def crossed(method: str, first: tuple[str, int], second: tuple[str, int], **more: Any) -> Any:
    sources = [
        {"model": name, "layer_range": [start, start + 3], "parameters": {"weight": 0.5}}
        for name, start in (first, second)
    ]
    return {"merge_method": method, "slices": [{"sources": sources}], **more}


EXPERTS = ["dense", "experts", "experts", "experts"]


@pytest.mark.parametrize(
    ("kinds", "told"),
    [
        (EXPERTS, r"which has no such tensor"),
        (["biased", "dense", "dense", "dense"], r"which has no such tensor"),
        (["6", "7", "8", "9"], r"which is \[\d, 4\], and .* which is \[\d, 4\]: they have no mean"),
    ],
)
@pytest.mark.parametrize("leader_first", [True, False])
@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_layers_of_two_kinds_are_not_merged(
    tmp_path: Path, kinds: list[str], told: str, leader_first: bool, method: str
) -> None:
    zoo = {name: layered(tmp_path / name, kinds, seed) for seed, name in enumerate("ab")}
    places = (("a", 0), ("b", 1)) if leader_first else (("a", 1), ("b", 0))
    more = {"base_model": "a"} if method == "task_arithmetic" else {}
    with pytest.raises(CompatibilityError, match=told) as caught:
        run_recipe(crossed(method, *places, **more), zoo, tmp_path / "out")
    assert "passthrough" in str(caught.value.mend)
    assert not (tmp_path / "out").exists()


def test_a_mend_pairs_the_layers_of_one_kind(tmp_path: Path) -> None:
    zoo = {name: layered(tmp_path / name, EXPERTS, seed) for seed, name in enumerate("ab")}
    whole = [{"model": name, "layer_range": [0, 4], "parameters": {"weight": 0.5}} for name in "ab"]
    run_recipe({"merge_method": "linear", "slices": [{"sources": whole}]}, zoo, tmp_path / "paired")
    a, b, merged = (
        load_file(directory / "model.safetensors")
        for directory in (zoo["a"].directory, zoo["b"].directory, tmp_path / "paired")
    )
    assert merged.keys() == a.keys()
    for name, tensor in merged.items():
        assert torch.equal(tensor, ((a[name].double() + b[name].double()) / 2).float())
    stack = [
        {"sources": [{"model": "a", "layer_range": [0, 2]}]},
        {"sources": [{"model": "b", "layer_range": [1, 4]}]},
    ]
    run_recipe({"merge_method": "passthrough", "slices": stack}, zoo, tmp_path / "stacked")
    stacked = load_file(tmp_path / "stacked" / "model.safetensors")
    for layer, (source, own) in enumerate([(a, 0), (a, 1), (b, 1), (b, 2), (b, 3)]):
        names = [name for name in source if name.startswith(f"model.layers.{own}.")]
        for name in names:
            output = name.replace(f"layers.{own}.", f"layers.{layer}.")
            assert torch.equal(stacked[output], source[name])


def test_floats_and_whole_numbers_have_no_mean(tmp_path: Path) -> None:
    steps = "model.layers.0.steps"
    zoo = {
        "a": layered(tmp_path / "a", ["dense"], 0, **{steps: torch.ones(3)}),
        "b": layered(tmp_path / "b", ["dense"], 1, **{steps: torch.ones(3, dtype=torch.int64)}),
    }
    models = [{"model": name, "parameters": {"weight": 0.5}} for name in "ab"]
    for order in (models, models[::-1]):
        recipe = {"merge_method": "linear", "models": order}
        with pytest.raises(CompatibilityError, match="they have no mean"):
            run_recipe(recipe, zoo, tmp_path / "out")
    run_recipe(
        {"merge_method": "linear", "models": models, "exclude": [{"filter": "steps"}]},
        zoo,
        tmp_path / "out",
    )


def test_stacks_of_recipes_used_by_name_are_compared_layer_by_layer(tmp_path: Path) -> None:
    zoo = {name: layered(tmp_path / name, EXPERTS, seed) for seed, name in enumerate("ab")}
    text = """
name: first
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 3]}]
---
name: second
merge_method: passthrough
slices:
  - sources: [{model: b, layer_range: [0, 1]}]
  - sources: [{model: b, layer_range: [0, 1]}]
  - sources: [{model: b, layer_range: [1, 2]}]
---
merge_method: linear
models: [{model: first}, {model: second}]
"""
    with pytest.raises(CompatibilityError):
        run_recipe(parse_recipe(text), zoo, tmp_path / "out")
