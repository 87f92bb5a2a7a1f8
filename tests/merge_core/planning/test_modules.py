"""Modules, excluded tensors and bases of slices, merged for real and compared with the formula."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from merge_core.configs.stacking import stacked_config
from merge_core.errors import CompatibilityError, MergeflowError, RecipeError
from merge_core.planning.expansion import stack_in
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from tests.support.checkpoints import run_recipe, write_checkpoint

Tensors = dict[str, torch.Tensor]
TEXT = "model.language_model"
CONFIG = {
    "model_type": "llava",
    "text_config": {"num_hidden_layers": 3, "layer_types": ["a", "b", "c"]},
    "vision_config": {"num_hidden_layers": 2},
}


@pytest.fixture
def zoo(tmp_path: Path) -> dict[str, SourceCheckpoint]:
    """Vision-language checkpoints: a text stack of 3 layers, a vision stack of 2."""
    zoo = {}
    for seed, name in enumerate(("base", "a", "b")):
        generator = torch.Generator().manual_seed(seed)

        def noise(*shape: int, generator: torch.Generator = generator) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        tensors = {
            "lm_head.weight": noise(10, 8),
            "model.language_model.embed_tokens.weight": noise(10, 8),
            "model.language_model.norm.weight": noise(8),
            "model.multi_modal_projector.weight": noise(8, 4),
        }
        for layer in range(3):
            tensors[f"model.language_model.layers.{layer}.mlp.up_proj.weight"] = noise(8, 8)
        for layer in range(2):
            tensors[f"model.vision_tower.encoder.layers.{layer}.mlp.fc1.weight"] = noise(4, 4)
        zoo[name] = write_checkpoint(tmp_path / name, tensors)
        (tmp_path / name / "config.json").write_text(json.dumps(CONFIG))
    return zoo


def load(directory: Path) -> Tensors:
    tensors = load_file(directory / "model.safetensors")
    return {name: tensor.double() for name, tensor in tensors.items()}


def mean(weights: Mapping[str, float], models: Mapping[str, Tensors], name: str) -> torch.Tensor:
    total = torch.zeros_like(models["base"][name])
    for model, weight in weights.items():
        total += weight * models[model][name]
    return total / sum(weights.values())


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "vision"),
    [("text_decoder", "vision_tower"), ("model.language_model", "model.vision_tower.encoder")],
)
def test_every_module_is_merged_as_it_says(
    text: str, vision: str, zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    recipe = {
        "merge_method": "linear",
        "base_model": "base",
        "parameters": {"weight": 4.0},
        "modules": {
            vision: {"models": [{"model": "a"}, {"model": "b", "parameters": {"weight": 1.0}}]},
            text: {
                "models": [{"model": "a"}, {"model": "b", "parameters": {"weight": [0.0, 3.0]}}],
                "parameters": {"weight": 2.0},
            },
            "default": {"models": [{"model": "b"}]},
        },
    }
    run_recipe(recipe, zoo, tmp_path / "out")
    merged = load(tmp_path / "out")
    models = {name: load(source.directory) for name, source in zoo.items()}
    assert merged.keys() == models["base"].keys()
    for layer, weight in enumerate((0.0, 1.5, 3.0)):
        name = f"model.language_model.layers.{layer}.mlp.up_proj.weight"
        close(merged[name], mean({"a": 2.0, "b": weight}, models, name))
    for layer in range(2):
        name = f"model.vision_tower.encoder.layers.{layer}.mlp.fc1.weight"
        close(merged[name], mean({"a": 4.0, "b": 1.0}, models, name))
    for name in ("model.multi_modal_projector.weight", "lm_head.weight"):
        in_text = name.startswith("lm_head") and text == "text_decoder"
        close(merged[name], models["a" if in_text else "b"][name])


def test_the_slices_of_a_module_stack_that_module_alone(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    recipe = {
        "merge_method": "passthrough",
        "modules": {
            "text_decoder": {
                "slices": [
                    {"sources": [{"model": "a", "layer_range": [0, 2]}]},
                    {"sources": [{"model": "b", "layer_range": [0, 3]}]},
                ]
            },
            "vision_tower": {
                "slices": [{"sources": [{"model": "b", "layer_range": [1, 2]}]}],
                "parameters": {"scale": 0.5},
            },
            "default": {"models": [{"model": "a"}]},
        },
    }
    run_recipe(recipe, zoo, tmp_path / "out")
    merged, a, b = load(tmp_path / "out"), load(zoo["a"].directory), load(zoo["b"].directory)
    layers = [(a, 0), (a, 1), (b, 0), (b, 1), (b, 2)]
    for index, (model, layer) in enumerate(layers):
        found = merged[f"model.language_model.layers.{index}.mlp.up_proj.weight"]
        close(found, model[f"model.language_model.layers.{layer}.mlp.up_proj.weight"])
    vision = "model.vision_tower.encoder.layers.{}.mlp.fc1.weight"
    close(merged[vision.format(0)], 0.5 * b[vision.format(1)])
    close(merged["model.language_model.embed_tokens.weight"], a[f"{TEXT}.embed_tokens.weight"])
    close(merged["model.language_model.norm.weight"], b[f"{TEXT}.norm.weight"])
    close(merged["lm_head.weight"], b["lm_head.weight"])
    assert len(merged) == 4 + 5 + 1
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["text_config"]["num_hidden_layers"] == 5
    assert config["text_config"]["layer_types"] == ["a", "b", "a", "b", "c"]
    assert config["vision_config"]["num_hidden_layers"] == 1


def test_the_order_of_modules_means_nothing(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    modules = {
        "vision_tower": {"models": [{"model": "a"}]},
        "default": {"models": [{"model": "b"}]},
    }
    forth = {"merge_method": "passthrough", "modules": modules}
    back = forth | {"modules": dict(reversed(modules.items()))}
    one = run_recipe(forth, zoo, tmp_path / "one")
    other = run_recipe(back, zoo, tmp_path / "other")
    assert one.digest == other.digest
    assert one.recipe_digest == other.recipe_digest


def test_encoder_and_decoder_are_counted_apart() -> None:
    recipe = parse_recipe(
        {
            "merge_method": "passthrough",
            "modules": {
                "encoder": {"slices": [{"sources": [{"model": "a", "layer_range": [0, 3]}]}]},
                "decoder": {"slices": [{"sources": [{"model": "a", "layer_range": [1, 2]}]}]},
                "default": {"models": [{"model": "a"}]},
            },
        }
    )
    for config, merged in (
        (
            {"num_layers": 2, "num_decoder_layers": 2},
            {"num_layers": 3, "num_decoder_layers": 1},
        ),
        (
            {"encoder_layers": 6, "decoder_layers": 6},
            {"encoder_layers": 3, "decoder_layers": 1},
        ),
    ):
        made = config
        for section in recipe.sections:
            if section.stacked:
                made = stacked_config(made, stack_in(section, "a", {}), {"a": config})
        assert made == merged


@pytest.mark.parametrize(
    ("modules", "messages"),
    [
        (["vision_tower"], ["modules: tensor", "is in no module", "lm_head", "default"]),
        (["vision_tower", "model", "default"], ["in two modules: vision_tower and model"]),
        (["vision", "default"], ["modules.vision: no tensor of 'a'", "model.vision_tower"]),
        (["lm_head", "model", "default"], ["modules.default: no tensor of 'a'"]),
    ],
)
def test_modules_that_do_not_divide_a_checkpoint_are_refused(
    modules: list[str], messages: list[str], zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    recipe = {
        "merge_method": "passthrough",
        "modules": {name: {"models": [{"model": "a"}]} for name in modules},
    }
    with pytest.raises(RecipeError) as caught:
        run_recipe(recipe, zoo, tmp_path / "out")
    for message in messages:
        assert message in str(caught.value)


EXCLUDED = ["multi_modal", {"group": "embeddings"}, {"regex": r"layers\.1\."}]


def test_excluded_tensors_are_the_bases_whatever_the_models_have(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    odd = {
        name: tensor
        for name, tensor in load_file(zoo["a"].directory / "model.safetensors").items()
        if "multi_modal" not in name
    }
    odd[f"{TEXT}.layers.1.mlp.up_proj.weight"] = torch.zeros(11, 8)
    sources = zoo | {"odd": write_checkpoint(tmp_path / "odd", odd)}
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "odd", "parameters": {"weight": 1.0}}],
        "exclude": EXCLUDED,
    }
    run_recipe(recipe, sources, tmp_path / "out")
    merged, base, a = (load(path) for path in (tmp_path / "out", *_directories(zoo, "base", "a")))
    assert merged.keys() == base.keys()
    for name, tensor in merged.items():
        kept = any(part in name for part in ("multi_modal", "embed_tokens", "layers.1."))
        close(tensor, base[name] if kept else a[name])
    with pytest.raises(CompatibilityError, match=r"projector\.weight is missing"):
        run_recipe({**recipe, "exclude": EXCLUDED[1:]}, sources, tmp_path / "other")


def test_without_a_base_excluded_tensors_are_the_first_models(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    recipe = {
        "merge_method": "linear",
        "models": [{"model": "b"}, {"model": "a"}],
        "parameters": {"weight": 1.0},
        "exclude": EXCLUDED,
        "out_dtype": "bfloat16",
    }
    run_recipe(recipe, zoo, tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    b = load_file(zoo["b"].directory / "model.safetensors")
    for name in ("model.multi_modal_projector.weight", f"{TEXT}.layers.1.mlp.up_proj.weight"):
        assert torch.equal(merged[name], b[name].to(torch.bfloat16))
    assert not torch.equal(merged["lm_head.weight"], b["lm_head.weight"].to(torch.bfloat16))


def test_in_slices_the_names_of_the_result_are_excluded(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "modules": {
            "text_decoder": {
                "slices": [
                    {"sources": [{"model": "a", "layer_range": [2, 3]}]},
                    {"sources": [{"model": "a", "layer_range": [0, 2]}]},
                ]
            },
            "default": {"models": [{"model": "a"}]},
        },
        "parameters": {"weight": 1.0},
        "exclude": ["model.layers.0."],
    }
    run_recipe(recipe, zoo, tmp_path / "out")
    merged, base, a = (load(path) for path in (tmp_path / "out", *_directories(zoo, "base", "a")))
    name = f"{TEXT}.layers.{{}}.mlp.up_proj.weight"
    close(merged[name.format(0)], base[name.format(2)])
    close(merged[name.format(1)], a[name.format(0)])
    close(merged[name.format(2)], a[name.format(1)])


def test_a_slice_may_have_a_base_of_its_own(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    slices = [
        {"sources": [{"model": "a", "layer_range": [0, 1]}]},
        {"sources": [{"model": "a", "layer_range": [1, 3]}], "base_model": "b"},
    ]
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "modules": {
            "text_decoder": {"slices": slices},
            "default": {"models": [{"model": "a"}]},
        },
        "parameters": {"weight": 0.25},
    }
    run_recipe(recipe, zoo, tmp_path / "out")
    merged = load(tmp_path / "out")
    models = {name: load(source.directory) for name, source in zoo.items()}
    for layer, origin in enumerate(("base", "b", "b")):
        name = f"{TEXT}.layers.{layer}.mlp.up_proj.weight"
        close(merged[name], 0.75 * models[origin][name] + 0.25 * models["a"][name])
    name = "lm_head.weight"
    close(merged[name], 0.75 * models["b"][name] + 0.25 * models["a"][name])
    with pytest.raises(MergeflowError, match="needs base_model"):
        run_recipe({**recipe, "base_model": None}, zoo, tmp_path / "other")


def _directories(zoo: Mapping[str, SourceCheckpoint], *names: str) -> list[Path]:
    return [zoo[name].directory for name in names]
