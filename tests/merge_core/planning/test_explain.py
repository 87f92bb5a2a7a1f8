"""`mergeflow explain`: the value of every parameter, and the line of the recipe that it is from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from flows.cli.program import run
from merge_core.planning.explain import Explained, explain, idle_filters
from merge_core.planning.plan import make_plan, open_inputs
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from tests.support.checkpoints import write_checkpoint

LAYERS = 4


@pytest.fixture
def zoo(tmp_path: Path) -> dict[str, SourceCheckpoint]:
    zoo = {}
    for name in ("base", "a", "b"):
        tensors = {
            "model.embed_tokens.weight": torch.ones(4, 2),
            "lm_head.weight": torch.full((4, 2), 2.0),  # no copy of the embeddings
        }
        tensors["positions"] = torch.arange(4)
        for layer in range(LAYERS):
            tensors[f"model.layers.{layer}.mlp.up_proj.weight"] = torch.ones(2, 2)
            tensors[f"model.layers.{layer}.input_layernorm.weight"] = torch.ones(2)
        zoo[name] = write_checkpoint(tmp_path / name, tensors)
        config = {"model_type": "llama", "num_hidden_layers": LAYERS}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    return zoo


def explained(recipe: dict[str, Any], zoo: dict[str, SourceCheckpoint]) -> dict[str, Explained]:
    parsed = parse_recipe(recipe)
    return {each.name: each for each in explain(parsed, open_inputs(parsed, zoo))}


def idle(recipe: dict[str, Any], zoo: dict[str, SourceCheckpoint]) -> list[str]:
    parsed = parse_recipe(recipe)
    inputs = open_inputs(parsed, zoo)
    return idle_filters(parsed, explain(parsed, inputs), inputs)


def of_sources(*levels: str) -> dict[str, Any]:
    """A recipe that sets the weight of a to 1 at the source, 2 at the slice, and so on."""
    source: dict[str, Any] = {"model": "a", "layer_range": [0, LAYERS]}
    part: dict[str, Any] = {"sources": [source]}
    module: dict[str, Any] = {"slices": [part]}
    recipe: dict[str, Any] = {
        "merge_method": "ties",
        "base_model": "base",
        "modules": {"default": module},
        "parameters": {"weight": 4.0},
    }
    for level in levels:
        place, value = {"source": (source, 1.0), "slice": (part, 2.0), "module": (module, 3.0)}[
            level
        ]
        place["parameters"] = {"weight": value}
    return recipe


@pytest.mark.parametrize(
    ("levels", "value", "where"),
    [
        (["source", "slice", "module"], 1.0, "modules.default.slices[0].sources[0].parameters"),
        (["slice", "module"], 2.0, "modules.default.slices[0].parameters"),
        (["module"], 3.0, "modules.default.parameters"),
        ([], 4.0, "parameters"),
    ],
)
def test_the_most_specific_level_counts(
    levels: list[str], value: float, where: str, zoo: dict[str, SourceCheckpoint]
) -> None:
    for tensor in explained(of_sources(*levels), zoo).values():
        if tensor.method == "ties":
            weight, density = (
                tensor.model_settings[0]["weight"],
                tensor.model_settings[0]["density"],
            )
            assert (weight.value, weight.where) == (value, f"{where}.weight")
            assert (density.value, density.where) == (1.0, "default")


def test_a_setting_for_all_models_is_never_read_at_one_model(
    zoo: dict[str, SourceCheckpoint],
) -> None:
    recipe = of_sources("source", "slice") | {"parameters": {"lambda": 0.5}}
    tensor = explained(recipe, zoo)["lm_head.weight"]
    assert tensor.settings["lambda"].where == "parameters.lambda"
    assert tensor.model_settings[0]["weight"].where.endswith("sources[0].parameters.weight")


FILTERED = {
    "merge_method": "task_arithmetic",
    "base_model": "base",
    "models": [
        {"model": "b", "parameters": {"weight": 0.1}},
        {
            "model": "a",
            "parameters": {
                "weight": [
                    {"glob": "*.1.mlp.*", "value": 0.9},
                    {"group": "mlp", "value": [0.0, 0.6]},
                ]
            },
        },
    ],
    "parameters": {"weight": 0.5, "lambda": [1.0, 0.4]},
    "exclude": [{"group": "norms"}],
    "post": [{"lines": {"alpha": 0.5, "beta": [{"filter": "head", "value": 0.2}, {"value": 1}]}}],
}


def test_filters_gradients_and_post_steps_are_traced(zoo: dict[str, SourceCheckpoint]) -> None:
    tensors = explained(FILTERED, zoo)
    second = tensors["model.layers.2.mlp.up_proj.weight"]
    weight = second.model_settings[1]["weight"]
    assert weight.value == pytest.approx(0.4)
    assert weight.where == "models[1].parameters.weight[1]"
    assert (weight.chosen_by, weight.is_gradient) == ("group mlp", True)
    assert second.settings["lambda"].value == pytest.approx(0.6)
    first = tensors["model.layers.1.mlp.up_proj.weight"].model_settings[1]["weight"]
    assert (first.value, first.where) == (0.9, "models[1].parameters.weight[0]")
    head = tensors["lm_head.weight"]
    assert head.model_settings[1]["weight"].where == "parameters.weight"
    ((step, settings),) = head.post
    assert step == "lines"
    assert settings["beta"].value == 0.2
    assert settings["beta"].where == "post[0].lines.beta[0]"
    norm = tensors["model.layers.0.input_layernorm.weight"]
    assert (norm.method, norm.excluded_by) == ("kept", "exclude[0] (group norms)")
    assert tensors["positions"].method == "copy"


def test_filters_that_decide_nothing_are_named(zoo: dict[str, SourceCheckpoint]) -> None:
    assert idle(FILTERED, zoo) == []
    weights = [
        {"filter": "mpl", "value": 1},
        {"group": "mlp", "value": 1},
        {"glob": "*.mlp.*", "value": 1},
        {"filter": "*", "value": 0},
    ]
    models = [{"model": "a", "parameters": {"weight": weights}}]
    recipe = FILTERED | {"models": models, "exclude": ["mpl", {"group": "norms"}]}
    assert idle(recipe, zoo) == [
        "models[0].parameters.weight[0] (filter 'mpl') decides on no tensor",
        "models[0].parameters.weight[2] (glob '*.mlp.*') decides on no tensor",
        "exclude[0] (filter 'mpl') decides on no tensor",
    ]


def test_what_is_explained_is_what_is_planned(zoo: dict[str, SourceCheckpoint]) -> None:
    tensors = explained(FILTERED, zoo)
    for planned in make_plan(parse_recipe(FILTERED), zoo).tensors:
        tensor, computed = tensors[planned.name], planned.merged
        if tensor.method in ("kept", "copy"):
            continue
        assert tensor.method == computed.method
        assert tensor.dtype == computed.dtype
        assert tensor.depth == computed.depth
        assert [
            {name: resolved.value for name, resolved in settings.items()}
            for settings in tensor.model_settings
        ] == [dict(values) for values in computed.model_parameters]
        assert {n: r.value for n, r in tensor.settings.items()} == dict(computed.parameters)
        assert [
            (step, {name: resolved.value for name, resolved in settings.items()})
            for step, settings in tensor.post
        ] == [(step, dict(values)) for step, values in computed.post]


def test_layers_of_slices_name_where_they_come_from(zoo: dict[str, SourceCheckpoint]) -> None:
    recipe = {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "a", "layer_range": [0, 2]}]},
            {"sources": [{"model": "b", "layer_range": [1, 4]}]},
        ],
    }
    tensor = explained(recipe, zoo)["model.layers.3.mlp.up_proj.weight"]
    assert (tensor.part, tensor.layer, tensor.depth) == ("slices[1].sources", 3, 0.5)
    (source,) = tensor.inputs
    assert (source.model, source.tensor) == ("b", "model.layers.2.mlp.up_proj.weight")


def test_the_command_shows_one_tensor_or_all(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    earlier = {"name": "first", "merge_method": "linear", "models": [{"model": "b"}]}
    path.write_text(yaml.safe_dump_all([earlier, _renamed(FILTERED, "b", "first")]))
    assert run(["explain", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "first = linear" in shown
    assert "taken from base as it is, by exclude[0] (group norms)" in shown
    assert "0 to 0.6" in shown
    assert run(["explain", str(path), "*.layers.2.mlp.*"]) == 0
    shown = capsys.readouterr().out
    assert "models[1].parameters.weight[1] (group mlp, gradient at depth 0.667)" in shown
    assert "layer 2, depth 0.667" in shown
    assert "model.layers.2.mlp.up_proj.weight of the recipe first" in shown
    assert run(["explain", str(path), "lm_head.weight", "--json"]) == 0
    inner, outer = json.loads(capsys.readouterr().out)
    assert inner["recipe"] == "first"
    assert outer["models"][0]["model"] == "first"
    assert outer["models"][0]["parameters"]["weight"] == {
        "value": 0.1,
        "from": "models[0].parameters.weight",
        "chosen_by": None,
        "gradient": False,
    }
    assert run(["explain", str(path), "lm_haed.weight"]) == 2
    assert "did you mean 'lm_head.weight'?" in capsys.readouterr().err


def _renamed(recipe: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    models = [
        entry | {"model": new if entry["model"] == old else entry["model"]}
        for entry in recipe["models"]
    ]
    return recipe | {"models": models}
