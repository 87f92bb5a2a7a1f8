"""Mends of slices and modules: ranges, configs and layers that do not go together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from merge_core.configs.stacking import Stack, stacked_config
from tests.field.mends.situations import (
    MERGE,
    PLAN,
    Situation,
    config,
    on_base,
    recipe,
    replaced,
    rewrite,
    situations,
    tensors_of,
)
from tests.support.followed_mends import Advice, Shell, Step

pytestmark = pytest.mark.slow

Range = tuple[str, int, int]


def counted(here: Path, **keys: Any) -> None:
    """Say in every config how many layers there are."""
    for name in ("base", "a", "b"):
        config(here / name, num_hidden_layers=4, **keys)


def stacked(here: Path, *ranges: Range, **keys: Any) -> None:
    """Write recipe.yaml: layers on top of each other."""
    slices = [
        {"sources": [{"model": f"./{name}", "layer_range": [first, last]}]}
        for name, first, last in ranges
    ]
    content = {"merge_method": "passthrough", "slices": slices} | keys
    (here / "recipe.yaml").write_text(yaml.safe_dump(content))


def paired(here: Path, one: Range, other: Range, **keys: Any) -> None:
    """Write recipe.yaml: layers merged with each other."""
    sources = [{"model": f"./{name}", "layer_range": [a, b]} for name, a, b in (one, other)]
    content = {"merge_method": "linear", "slices": [{"sources": sources}]} | keys
    (here / "recipe.yaml").write_text(yaml.safe_dump(content))


TWICE = (("a", 0, 4), ("a", 2, 4))
WHOLE = (("a", 0, 2), ("b", 2, 4))


def a_tower_without_the_layer_that_is_looked_at(here: Path) -> Iterator[Step]:
    seen = {"vision_config": {"num_hidden_layers": 4}, "vision_feature_layer": -2}

    def of_layers(*layers: int) -> str:
        stack = Stack("vision_tower", "slices", [("a", each) for each in layers], "a", "a")
        return str(stacked_config(seen, stack, {"a": seen}))

    yield (of_layers, 0, 1, 3)
    yield (of_layers, 0, 1, 2, 3, 3)


def a_last_layer_that_its_class_would_change(here: Path) -> Iterator[Step]:
    types = ["sliding_attention", "full_attention"] * 2
    counted(here, model_type="gemma4_text", layer_types=types)
    stacked(here, ("a", 0, 4), ("a", 2, 3))
    yield PLAN
    stacked(here, ("a", 0, 4), ("a", 2, 4))
    yield PLAN


def a_config_that_counts_no_layers(here: Path) -> Iterator[Step]:
    stacked(here, *TWICE)
    yield PLAN
    config(here / "a", num_hidden_layers=4)
    yield PLAN


def a_config_of_other_weights(here: Path) -> Iterator[Step]:
    counted(here)
    config(here / "a", num_hidden_layers=6)
    stacked(here, *TWICE)
    yield PLAN
    config(here / "a", num_hidden_layers=4)
    yield PLAN


def two_numbers_of_layers(here: Path) -> Iterator[Step]:
    config(here / "a", num_hidden_layers=4, text_config={"num_hidden_layers": 6})
    stacked(here, *TWICE)
    yield PLAN
    config(here / "a", num_hidden_layers=4, text_config={"num_hidden_layers": 4})
    yield PLAN


def a_setting_that_is_not_understood(here: Path) -> Iterator[Step]:
    counted(here, attn_every_k_layers=2)
    stacked(here, *TWICE)
    yield PLAN
    counted(here)
    yield MERGE
    config(here / "out", attn_every_k_layers=2)


def in_groups(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if ".layers." in name]:
        tensors[name.replace(".layers.", ".groups.")] = tensors.pop(name)


def layers_that_share_weights(here: Path) -> Iterator[Step]:
    """ALBERT's: a few groups, whose weights many layers have."""
    config(here / "a", num_hidden_layers=12, num_hidden_groups=4)
    rewrite(here / "a", in_groups)
    stacked(here, *TWICE)
    yield PLAN
    recipe(here, merge_method="passthrough", models=[{"model": "./a"}])
    yield PLAN


def layers_that_know_their_number(here: Path) -> Iterator[Step]:
    counted(here, scale_attn_by_inverse_layer_idx=True, model_type="gpt2")
    stacked(here, *TWICE)
    yield PLAN
    stacked(here, *WHOLE)
    yield PLAN


def a_layer_of_other_tensors(here: Path) -> Iterator[Step]:
    counted(here)
    name = "model.layers.1.mlp.down_proj.weight"
    for each in ("a", "b"):
        rewrite(here / each, lambda tensors: tensors.update({name: torch.ones(8, 8)}))
    stacked(here, ("a", 1, 2), ("a", 0, 4))
    yield PLAN
    stacked(here, *WHOLE)
    yield PLAN


def a_list_that_the_donor_lacks(here: Path) -> Iterator[Step]:
    kinds = ["full_attention", "sliding_attention"] * 2
    config(here / "a", num_hidden_layers=4)
    config(here / "b", num_hidden_layers=4, layer_types=kinds)
    stacked(here, ("a", 0, 2), ("b", 0, 4))
    yield PLAN
    config(here / "a", num_hidden_layers=4, layer_types=["full_attention"] * 4)
    yield PLAN


def a_list_that_is_too_short(here: Path) -> Iterator[Step]:
    kinds = ["full_attention", "sliding_attention"] * 2
    config(here / "a", num_hidden_layers=4, layer_types=kinds)
    config(here / "b", num_hidden_layers=4, layer_types=kinds[:2])
    stacked(here, ("a", 0, 2), ("b", 0, 4))
    yield PLAN
    config(here / "b", num_hidden_layers=4, layer_types=kinds)
    yield PLAN


UNEVEN = (("a", 0, 1), ("a", 0, 2), ("a", 1, 4))


def kinds_that_a_period_cannot_say(here: Path) -> Iterator[Step]:
    counted(here, attn_layer_period=2, attn_layer_offset=0, model_type="jamba")
    stacked(here, *UNEVEN)
    yield PLAN
    stacked(here, *TWICE)
    yield PLAN


def experts_that_a_period_cannot_say(here: Path) -> Iterator[Step]:
    counted(here, expert_layer_period=2, expert_layer_offset=0, model_type="jamba")
    stacked(here, *UNEVEN)
    yield PLAN
    stacked(here, *TWICE)
    yield PLAN


def experts_after_layers_without(here: Path) -> Iterator[Step]:
    counted(here, first_k_dense_replace=2, n_routed_experts=4, model_type="deepseek_v3")
    stacked(here, ("a", 0, 4), ("a", 0, 4))
    yield PLAN
    stacked(here, ("a", 0, 2), ("a", 0, 4))
    yield PLAN


def experts_that_are_not_in_one_run(here: Path) -> Iterator[Step]:
    keys = {"moe_layer_start_index": 2, "moe_layer_end_index": 3, "moe_layer_interval": 1}
    counted(here, model_type="ernie4_5_moe", **keys)
    stacked(here, ("a", 0, 4), ("a", 0, 4))
    yield PLAN
    stacked(here, ("a", 0, 2), ("a", 0, 4))
    yield PLAN


def layers_of_two_shapes(here: Path) -> Iterator[Step]:
    counted(here)
    name = "model.layers.1.mlp.up_proj.weight"
    for each in ("a", "b"):
        rewrite(here / each, lambda tensors: tensors.update({name: torch.ones(16, 8)}))
    paired(here, ("a", 0, 2), ("b", 1, 3))
    yield PLAN
    paired(here, ("a", 0, 4), ("b", 0, 4))
    yield PLAN


def layers_of_two_kinds_of_numbers(here: Path) -> Iterator[Step]:
    counted(here)
    name = "model.layers.0.input_layernorm.weight"
    whole = torch.ones(8, dtype=torch.int64)
    rewrite(here / "b", lambda tensors: tensors.update({name: whole}))
    paired(here, ("a", 0, 4), ("b", 0, 4))
    yield PLAN
    paired(here, ("a", 0, 4), ("b", 0, 4), exclude=[name])
    yield PLAN


def a_base_without_that_layer(here: Path) -> Iterator[Step]:
    short = {k: v for k, v in tensors_of(0).items() if "layers.3" not in k}
    replaced(here, "base", short)
    counted(here)
    config(here / "base", num_hidden_layers=3)
    sources = [
        {"model": f"./{name}", "layer_range": [2, 4], "parameters": {"weight": 0.5}}
        for name in "ab"
    ]
    on_base(here)
    content = yaml.safe_load((here / "recipe.yaml").read_text())
    del content["models"]
    content["slices"] = [
        {
            "sources": [
                {"model": f"./{name}", "layer_range": [0, 2], "parameters": {"weight": 0.5}}
                for name in "ab"
            ]
        },
        {"sources": sources},
    ]
    (here / "recipe.yaml").write_text(yaml.safe_dump(content))
    yield PLAN
    sources.insert(0, {"model": "./base", "layer_range": [1, 3]})
    (here / "recipe.yaml").write_text(yaml.safe_dump(content))
    yield PLAN


def several_stacks(here: Path) -> Iterator[Step]:
    towers = {f"vision_tower.layers.{i}.weight": torch.ones(4, 4) for i in range(2)}
    language = {f"language_model.layers.{i}.weight": torch.ones(4, 4) for i in range(4)}
    for name in ("a", "b"):
        replaced(here, name, towers | language)
        config(
            here / name,
            model_type="llava",
            text_config={"num_hidden_layers": 4, "model_type": "llama"},
            vision_config={"num_hidden_layers": 2},
        )
    stacked(here, *TWICE)
    yield PLAN
    content = yaml.safe_load((here / "recipe.yaml").read_text())
    modules = {
        "text_decoder": {"slices": content["slices"]},
        "default": {"models": [{"model": "./a"}]},
    }
    recipe_text = {"merge_method": "passthrough", "modules": modules}
    (here / "recipe.yaml").write_text(yaml.safe_dump(recipe_text))
    yield PLAN


def a_module_that_is_not_there(here: Path) -> Iterator[Step]:
    models = [{"model": "./a"}, {"model": "./b"}]
    content = {"merge_method": "linear", "modules": {"vision": {"models": models}}}
    content["modules"]["default"] = {"models": models}
    (here / "recipe.yaml").write_text(yaml.safe_dump(content))
    yield PLAN
    content["modules"]["layers"] = content["modules"].pop("vision")
    (here / "recipe.yaml").write_text(yaml.safe_dump(content))
    yield PLAN


def a_tensor_that_one_lacks(here: Path) -> Iterator[Step]:
    rewrite(here / "a", lambda tensors: tensors.pop("model.layers.3.mlp.up_proj.weight"))
    yield PLAN
    recipe(here, models=[{"model": "./base"}, {"model": "./b"}])
    yield PLAN


def integers_where_another_has_weights(here: Path) -> Iterator[Step]:
    name = "model.layers.0.input_layernorm.weight"
    whole = torch.ones(8, dtype=torch.int64)
    rewrite(here / "b", lambda tensors: tensors.update({name: whole}))
    yield PLAN
    on_base(here, exclude=[name])
    yield PLAN


def counters_that_differ(here: Path) -> Iterator[Step]:
    for number, name in enumerate(("base", "a", "b")):
        count = torch.tensor([number], dtype=torch.int64)
        rewrite(here / name, lambda tensors, count=count: tensors.update({"steps": count}))
    on_base(here)
    yield ("merge", "recipe.yaml", "out")
    on_base(here, exclude=["steps"])
    yield ("merge", "recipe.yaml", "out")


def values_that_float16_cannot_hold(here: Path) -> Iterator[Step]:
    on_base(here, out_dtype="float16", parameters={"lambda": 1e8})
    yield ("merge", "recipe.yaml", "out")
    on_base(here, out_dtype="float32", parameters={"lambda": 1e8})
    yield ("merge", "recipe.yaml", "out")


def values_that_nothing_can_hold(here: Path) -> Iterator[Step]:
    on_base(here, parameters={"lambda": 1e300})
    yield ("merge", "recipe.yaml", "out")
    on_base(here, parameters={"lambda": 1})
    yield ("merge", "recipe.yaml", "out")


def directions_that_cancel_out(here: Path) -> Iterator[Step]:
    base = tensors_of(0)

    def around(angle: float) -> dict[str, torch.Tensor]:
        turn = torch.tensor([angle])
        return {
            name: tensor
            + 0.02
            * (
                torch.cos(turn) * torch.ones_like(tensor)
                + torch.sin(turn)
                * torch.tensor([1.0, -1.0] * (tensor.numel() // 2)).view_as(tensor)
            )
            for name, tensor in base.items()
        }

    third_of_a_turn = 2 * torch.pi / 3
    for index, name in enumerate(("a", "b", "c")):
        replaced(here, name, {k: v.double() for k, v in around(index * third_of_a_turn).items()})
    replaced(here, "base", {k: v.double() for k, v in base.items()})
    keys = {"merge_method": "multislerp", "parameters": {"eps": 1e-4}}
    on_base(here, "./a", "./b", "./c", **keys)
    yield ("merge", "recipe.yaml", "out")
    content = yaml.safe_load((here / "recipe.yaml").read_text())
    content["models"][0]["parameters"]["weight"] = 0.9
    (here / "recipe.yaml").write_text(yaml.safe_dump(content))
    yield ("merge", "recipe.yaml", "out")


def recipes_that_read_too_much(here: Path) -> Iterator[Step]:
    documents = [
        {"name": "r0", "merge_method": "linear", "models": [{"model": "./a"}, {"model": "./b"}]}
    ]
    for number in range(1, 12):
        before = f"r{number - 1}"
        models = [{"model": before}, {"model": "./a"}]
        documents.append(
            {"name": f"r{number}", "merge_method": "slerp", "base_model": before, "models": models}
        )
        documents[-1]["parameters"] = {"t": 0.5}
    (here / "recipe.yaml").write_text(yaml.safe_dump_all(documents))
    yield PLAN
    (here / "recipe.yaml").write_text(yaml.safe_dump_all(documents[:3]))
    yield PLAN


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_stacking(situation: Situation, here: Path, mergeflow: Shell, advice: Advice) -> None:
    recipe(here)
    advice.follow(mergeflow, situation(here))
