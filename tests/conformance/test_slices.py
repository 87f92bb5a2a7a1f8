"""Slices stack and combine runs of layers; everything else follows the first and the last slice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from merge_core.errors import CompatibilityError, RecipeError
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from tests.support.checkpoints import run_recipe, write_checkpoint

LAYERS = 4


@pytest.fixture
def zoo(tmp_path: Path) -> dict[str, SourceCheckpoint]:
    zoo = {}
    for seed, name in enumerate(("base", "a", "b")):
        generator = torch.Generator().manual_seed(seed)

        def noise(*shape: int, generator: torch.Generator = generator) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        tensors = {"model.embed_tokens.weight": noise(10, 8), "model.norm.weight": noise(8)}
        tensors["lm_head.weight"] = noise(10, 8)
        for layer in range(LAYERS):
            tensors[f"model.layers.{layer}.self_attn.q_proj.weight"] = noise(8, 8)
            tensors[f"model.layers.{layer}.mlp.up_proj.weight"] = noise(16, 8)
        zoo[name] = write_checkpoint(tmp_path / name, tensors)
        config = {"num_hidden_layers": LAYERS, "layer_types": [f"{name}{i}" for i in range(LAYERS)]}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    return zoo


def load(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def source(model: str, first: int, last: int, **parameters: object) -> dict[str, object]:
    return {"model": model, "layer_range": [first, last], "parameters": parameters}


def test_a_frankenmerge_stacks_layers(zoo: dict[str, SourceCheckpoint], tmp_path: Path) -> None:
    recipe = {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [source("a", 0, 3)]},
            {"sources": [source("b", 1, 4, scale=0.5)]},
        ],
    }
    run_recipe(recipe, zoo, tmp_path / "out")
    merged, a, b = load(tmp_path / "out"), load(zoo["a"].directory), load(zoo["b"].directory)
    assert torch.equal(merged["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    assert torch.equal(merged["model.norm.weight"], b["model.norm.weight"] * 0.5)
    assert torch.equal(merged["lm_head.weight"], b["lm_head.weight"] * 0.5)
    for kind in ("self_attn.q_proj.weight", "mlp.up_proj.weight"):
        for layer in range(6):
            expected = (
                a[f"model.layers.{layer}.{kind}"]
                if layer < 3
                else b[f"model.layers.{layer - 2}.{kind}"] * 0.5
            )
            assert torch.equal(merged[f"model.layers.{layer}.{kind}"], expected)
    assert len(merged) == 3 + 6 * 2
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 6
    assert config["layer_types"] == ["a0", "a1", "a2", "b1", "b2", "b3"]


def test_slices_resolve_parameters_from_source_slice_and_recipe(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "slices": [
            {"sources": [source("base", 1, 3), source("a", 0, 2, weight=[0.0, 1.0])]},
            {
                "sources": [source("base", 0, 1), source("b", 3, 4)],
                "parameters": {"weight": [{"filter": "layers.3.mlp", "value": 0.25}]},
            },
        ],
        "parameters": {"weight": 2.0},
    }
    run_recipe(recipe, zoo, tmp_path / "out")
    merged = {name: tensor.double() for name, tensor in load(tmp_path / "out").items()}
    loaded = {
        model: {name: tensor.double() for name, tensor in load(zoo[model].directory).items()}
        for model in ("base", "a", "b")
    }

    def shifted(model: str, base_name: str, name: str, weight: float) -> torch.Tensor:
        base = loaded["base"][base_name]
        return base + weight * (loaded[model][name] - base)

    for kind in ("self_attn.q_proj.weight", "mlp.up_proj.weight"):
        rows = [
            shifted("a", f"model.layers.1.{kind}", f"model.layers.0.{kind}", 0.0),
            shifted("a", f"model.layers.2.{kind}", f"model.layers.1.{kind}", 1.0),
            shifted(
                "b",
                f"model.layers.0.{kind}",
                f"model.layers.3.{kind}",
                0.25 if "mlp" in kind else 2.0,
            ),
        ]
        for layer, expected in enumerate(rows):
            torch.testing.assert_close(
                merged[f"model.layers.{layer}.{kind}"], expected, rtol=1e-6, atol=1e-7
            )
    embed = "model.embed_tokens.weight"
    torch.testing.assert_close(merged[embed], shifted("a", embed, embed, 0.0), rtol=1e-6, atol=1e-7)
    norm = "model.norm.weight"
    torch.testing.assert_close(merged[norm], shifted("b", norm, norm, 2.0), rtol=1e-6, atol=1e-6)


def test_layers_that_a_model_does_not_have_are_refused(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    recipe = {"merge_method": "passthrough", "slices": [{"sources": [source("a", 2, 6)]}]}
    with pytest.raises(RecipeError, match=r"slices\[0\]\.sources\[0\]\.layer_range.*has 4 layers"):
        run_recipe(recipe, zoo, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_stacks_of_two_recipes_may_be_merged_by_a_third(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    text = """
name: tall
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 4]}]
  - sources: [{model: b, layer_range: [3, 4]}]
---
name: other
merge_method: passthrough
slices:
  - sources: [{model: b, layer_range: [0, 4]}]
  - sources: [{model: a, layer_range: [0, 1]}]
---
merge_method: linear
models: [{model: tall}, {model: other}]
"""
    run_recipe(parse_recipe(text), zoo, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == LAYERS + 1
    assert config["layer_types"] == ["a0", "a1", "a2", "a3", "b3"]
    merged, a, b = (load(tmp_path / name) for name in ("out", "a", "b"))
    top = "model.layers.{}.mlp.up_proj.weight"
    mean = (b[top.format(3)].double() + a[top.format(0)].double()) / 2
    assert torch.equal(merged[top.format(4)], mean.float())


@pytest.mark.parametrize("said", [None, ["b0", "b1"], "all"])
def test_a_config_that_does_not_cover_its_layers_leaves_them_to_the_donors_or_is_refused(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path, said: object
) -> None:
    config = {"num_hidden_layers": LAYERS, "layer_types": said}
    (tmp_path / "b" / "config.json").write_text(json.dumps(config))
    recipe = {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "a", "layer_range": [0, 4]}]},
            {"sources": [{"model": "b", "layer_range": [2, 3]}]},
        ],
    }
    if said is not None:
        with pytest.raises(CompatibilityError, match="does not say the layer_types of layer 2"):
            run_recipe(recipe, zoo, tmp_path / "out")
        return
    run_recipe(recipe, zoo, tmp_path / "out")
    merged = json.loads((tmp_path / "out" / "config.json").read_text())
    assert merged["layer_types"] == ["a0", "a1", "a2", "a3", "a2"]
