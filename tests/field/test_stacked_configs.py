"""Configs of stacks: every place and every list is rewritten, or the stack is refused with a mend.

Configs alone, and small checkpoints of no architecture, so that each kind of setting stands alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from merge_core.configs.stacking import Stack, stacked_config
from merge_core.errors import CompatibilityError, RecipeError
from tests.support.checkpoints import run_recipe, write_checkpoint


def restacked(config: Mapping[str, Any], order: Sequence[int], module: str | None = None) -> Any:
    layers = tuple(("a", layer) for layer in order)
    stack = Stack(module, "slices", layers, "a", "a")
    return stacked_config(config, stack, {"a": config})


FOUR = {"num_hidden_layers": 4}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"layer_types": ["s", "f", "s", "f"]}, {"layer_types": ["s", "s", "f", "s", "f"]}),
        ({"mlp_only_layers": [1, 3]}, {"mlp_only_layers": [2, 4], "decoder_sparse_step": 1}),
        ({"mlp_only_layers": [0]}, {"mlp_only_layers": [0, 1], "decoder_sparse_step": 1}),
        ({"attn_layer_indices": [0, 2]}, {"attn_layer_indices": [0, 1, 3]}),
        ({"cross_attention_layers": [1]}, {"cross_attention_layers": [2]}),
        (
            {"first_k_dense_replace": 1, "moe_layer_freq": 1},
            {"first_k_dense_replace": 2, "moe_layer_freq": 1},
        ),
        ({"moe_layer_freq": [0, 1, 1, 1]}, {"moe_layer_freq": [0, 0, 1, 1, 1]}),
        ({"num_dense_layers": 2}, {"num_dense_layers": 3}),
        ({"hybrid_override_pattern": "M-*E"}, {"hybrid_override_pattern": "MM-*E"}),
        ({"attention_types": [[["g", "l"], 2]]}, {"attention_types": [[list("gglgl"), 1]]}),
        ({"num_key_value_heads": [1, 2, 2, 1]}, {"num_key_value_heads": [1, 1, 2, 2, 1]}),
        (
            {"block_configs": [{"ffn": i} for i in range(4)]},
            {"block_configs": [{"ffn": i} for i in (0, 0, 1, 2, 3)]},
        ),
        (
            {"per_layer_config": {"0": {"head_dim": 8}, "3": {"head_dim": 9}}},
            {"per_layer_config": {i: {"head_dim": 8} for i in "01"} | {"4": {"head_dim": 9}}},
        ),
        ({"num_blocks": 4}, {"num_blocks": 5}),
        ({"attention_window": [2, 4, 6, 8]}, {"attention_window": [2, 2, 4, 6, 8]}),
        ({"num_attention_heads_per_layer": [4] * 4}, {"num_attention_heads_per_layer": [4] * 5}),
        (
            {"interleave_moe_layer_step": 2},
            {"interleave_moe_layer_step": 2, "moe_layers": [2, 4]},
        ),
        (
            {"no_rope_layer_interval": 2},
            {"no_rope_layer_interval": 2, "no_rope_layers": [1, 1, 0, 1, 0]},
        ),
        (
            {"moe_layer_start_index": 1, "moe_layer_end_index": 3, "moe_layer_interval": 1},
            {"moe_layer_start_index": 2, "moe_layer_end_index": 4, "moe_layer_interval": 1},
        ),
        ({"num_kv_shared_layers": 0, "use_cache": True}, {}),
        ({"eos_token_id": [1, 2, 3, 4], "architectures": list("abcd")}, {}),
        ({"rope_parameters": {"short_factor": [1.0, 2.0, 3.0, 4.0]}}, {}),
    ],
    ids=str,
)
def test_the_first_layer_twice(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    config = {"model_type": "own", **FOUR, **settings}
    result = restacked(config, [0, 0, 1, 2, 3])
    assert result == config | {"num_hidden_layers": 5} | expected


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"attn_every_k_layers": 2}, "attn_every_k_layers"),
        ({"num_kv_shared_layers": 2}, "num_kv_shared_layers"),
        ({"special_layer_idx": 0}, "special_layer_idx"),
        ({"dense_layer_ids": [1, 3]}, "dense_layer_ids"),
        ({"kv_source_layers": [0, 0, 1, 2]}, "kv_source_layers"),
        ({"layer_rules": {"0": "dense"}}, "layer_rules"),
        ({"global_attention_period": 3}, "global_attention_period"),
        ({"layer_types": ["s", "f"]}, "layer_types"),
        ({"sliding_window": 8}, "sliding_window"),
        ({"attention_window_size": 8}, "attention_window_size"),
        ({"sliding_window_pattern": "LLLG", "sliding_window": 8}, "sliding_window"),
    ],
    ids=str,
)
def test_what_a_number_may_mean_is_not_guessed(settings: dict[str, Any], named: str) -> None:
    config = {"model_type": "own", **FOUR, **settings}
    with pytest.raises(CompatibilityError, match=named) as caught:
        restacked(config, [0, 0, 1, 2, 3])
    assert "save_pretrained" in str(caught.value.mend)
    assert restacked(config, [0, 1, 2, 3]) == config  # nothing moves: nothing to know
    mended = config | dict.fromkeys(settings)
    assert restacked(mended, [0, 0, 1, 2, 3])["num_hidden_layers"] == 5


def test_the_same_setting_is_rewritten_at_the_top_and_in_the_text_model() -> None:
    text = {"num_hidden_layers": 4, "layer_types": list("sfsf"), "mlp_only_layers": [1]}
    vision = {"num_hidden_layers": 4, "depth": 4, "layer_types": list("vvvv")}
    config = {**text, "text_config": dict(text), "vision_config": vision}
    result = restacked(config, [1, 2, 3])
    expected = {"num_hidden_layers": 3, "layer_types": list("fsf"), "mlp_only_layers": [0]}
    for part in (result, result["text_config"]):
        assert {key: part[key] for key in expected} == expected
    assert result["vision_config"] == vision
    assert restacked(config, [0, 1], "vision_tower")["vision_config"]["num_hidden_layers"] == 2
    assert restacked(config, [0, 1], "vision_tower")["num_hidden_layers"] == 4


@pytest.mark.parametrize(
    ("order", "number", "expected"),
    [
        ([0, 0, 1, 2, 3], 2, 3),
        ([0, 0, 1, 2, 3], -2, -2),
        ([1, 2, 3], 2, 1),
        ([0, 1, 2, 3, 0], -2, -3),
        ([1, 2, 3], 0, 0),
        ([1, 2, 3], -5, -4),
        ([0, 0, 1, 2, 3], [2, -1, 0], [3, -1, 0]),
    ],
)
def test_the_output_of_a_tower_is_taken_from_the_same_layer(order, number, expected) -> None:
    tower = {"vision_config": dict(FOUR)}
    result = restacked({**tower, "vision_feature_layer": number}, order, "vision_tower")
    assert result["vision_feature_layer"] == expected
    assert result["vision_config"]["num_hidden_layers"] == len(order)
    text = {**FOUR, **tower, "vision_feature_layer": number}
    assert restacked(text, order)["vision_feature_layer"] == number, "the text model moved alone"


@pytest.mark.parametrize(("order", "how"), [([0, 1, 3], "not"), ([0, 1, 2, 2, 3, 3], "several")])
def test_a_layer_whose_output_is_taken_is_there_once(order, how) -> None:
    config = {"vision_config": dict(FOUR), "vision_feature_layer": -2}
    with pytest.raises(CompatibilityError, match=f"output of layer 2 .*is {how}") as caught:
        restacked(config, order, "vision_tower")
    assert caught.value.mend == "choose ranges that have layer 2 once"
    assert restacked(config, [0, 0, 1, 2, 3], "vision_tower")["vision_feature_layer"] == -2


@pytest.mark.parametrize("kind", ["gemma4_text", "gemma4_unified_text", "embedding_gemma2_text"])
def test_a_last_layer_that_its_class_would_change_is_refused(kind: str) -> None:
    types = ["sliding_attention", "full_attention"] * 2
    config = {"model_type": kind, **FOUR, "layer_types": types}
    with pytest.raises(CompatibilityError, match="computes its last layer with full") as caught:
        restacked(config, [0, 1, 2])
    assert caught.value.mend == "end the stack with a layer of full attention"
    assert restacked(config, [0, 2, 3])["layer_types"] == [types[i] for i in (0, 2, 3)]
    other = restacked({**config, "model_type": "gemma3_text"}, [0, 1, 2])
    assert other["layer_types"] == types[:3], "others may end with any"


def test_a_deeper_part_is_found() -> None:
    config = {"thinker_config": {"text_config": dict(FOUR)}, "talker_config": dict(FOUR)}
    result = restacked(config, [0, 1])
    assert result["thinker_config"]["text_config"]["num_hidden_layers"] == 2
    assert result["talker_config"] == FOUR


def test_two_numbers_of_layers_for_one_stack_are_refused() -> None:
    config = {"num_hidden_layers": 4, "text_config": {"num_hidden_layers": 6}}
    with pytest.raises(CompatibilityError, match="another part of it 4 layers"):
        restacked(config, [0, 1])


@pytest.mark.parametrize("ranges", [[[0, 2]], [[0, 4], [3, 4]], [[1, 4], [0, 1]]])
def test_a_config_that_counts_no_layers_is_refused_and_the_mend_works(
    ranges: list[list[int]], tmp_path: Path
) -> None:
    source = checkpoint(tmp_path / "a", "xxxx", {})
    with pytest.raises(CompatibilityError, match="does not say how many layers") as caught:
        stack(source, tmp_path / "out", *ranges)
    assert "as num_hidden_layers" in str(caught.value.mend)
    path = tmp_path / "a" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 4}))
    merged = stack(source, tmp_path / "out", *ranges)
    assert merged["num_hidden_layers"] == sum(end - start for start, end in ranges)


def test_a_config_that_counts_no_layers_is_enough_where_none_moves(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "a", "xxxx", {})
    assert stack(source, tmp_path / "out", [0, 3], [3, 4])["model_type"] == "own"


@pytest.mark.parametrize(
    ("settings", "order"),
    [
        ({"attn_layer_period": 2, "attn_layer_offset": 1}, [0, 0, 1, 2, 3]),
        ({"first_k_dense_replace": 1}, [0, 1, 2, 3, 0]),
        ({"moe_layer_start_index": 1, "moe_layer_interval": 1}, [0, 1, 0, 1]),
    ],
)
def test_what_a_setting_cannot_say_is_refused(settings: dict[str, Any], order: list[int]) -> None:
    with pytest.raises(CompatibilityError, match="cannot say by") as caught:
        restacked({"model_type": "own", **FOUR, **settings}, order)
    assert caught.value.mend


def checkpoint(directory: Path, kinds: str, config: dict[str, Any], **more: torch.Tensor) -> Any:
    """Layers of the kinds that letters name: each letter has tensors of its own."""
    tensors = {"model.embed_tokens.weight": torch.ones(4, 2), "model.norm.weight": torch.ones(2)}
    for layer, kind in enumerate(kinds):
        tensors[f"model.layers.{layer}.{kind}.weight"] = torch.full((2, 2), float(layer))
    source = write_checkpoint(directory, tensors | more)
    (directory / "config.json").write_text(json.dumps({"model_type": "own", **config}))
    return source


def stack(source: Any, out: Path, *ranges: list[int]) -> dict[str, Any]:
    slices = [{"sources": [{"model": "a", "layer_range": layers}]} for layers in ranges]
    run_recipe({"merge_method": "passthrough", "slices": slices}, {"a": source}, out)
    return dict(json.loads((out / "config.json").read_text()))


@pytest.mark.parametrize(
    ("kinds", "ranges", "right"),
    [
        ("xxxx", [[0, 3], [1, 4]], True),
        ("dxxx", [[0, 4], [1, 4]], True),
        ("dxxx", [[0, 1], [0, 4]], False),
        ("dxxx", [[1, 4]], False),
        ("xyxy", [[0, 4], [0, 4]], True),
        ("xyxy", [[0, 4], [1, 4]], False),
        ("xyxy", [[0, 2], [2, 4]], True),
        ("xxxd", [[0, 4], [3, 4]], False),
        ("xyzw", [[0, 2]], True),
        ("xyzw", [[0, 4], [0, 1]], False),
        ("xxxyxx", [[0, 6], [4, 6]], False),
    ],
)
def test_each_number_has_the_tensors_that_the_donor_has_there(
    kinds: str, ranges: list[list[int]], right: bool, tmp_path: Path
) -> None:
    source = checkpoint(tmp_path / "a", kinds, {"num_hidden_layers": len(kinds)})
    if right:
        merged = stack(source, tmp_path / "out", *ranges)
        assert merged["num_hidden_layers"] == sum(end - start for start, end in ranges)
        return
    with pytest.raises(CompatibilityError, match=r"layer \d of 'a' would be layer \d"):
        stack(source, tmp_path / "out", *ranges)
    assert not (tmp_path / "out").exists()


def test_settings_that_tell_layers_apart_are_rewritten_with_them(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 4, "moe_layers": [1, 2, 3]}
    source = checkpoint(tmp_path / "a", "dxxx", config)
    merged = stack(source, tmp_path / "out", [0, 1], [0, 4])
    assert merged["moe_layers"] == [2, 3, 4]


def test_blocks_that_predict_further_tokens_are_no_layers(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 3, "num_nextn_predict_layers": 1}
    source = checkpoint(tmp_path / "a", "xxxm", config)
    merged = stack(source, tmp_path / "out", [0, 3], [1, 3])
    assert (merged["num_hidden_layers"], merged["num_nextn_predict_layers"]) == (5, 0)
    with pytest.raises(RecipeError, match="has 3 layers"):
        stack(source, tmp_path / "other", [0, 4])


def test_a_config_of_other_weights_is_refused(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "a", "xxxx", {"num_hidden_layers": 6})
    with pytest.raises(CompatibilityError, match="says 6 layers, the weights hold 4"):
        stack(source, tmp_path / "out", [0, 2])


def test_a_tensor_with_a_part_for_each_layer_is_not_cut(tmp_path: Path) -> None:
    parts = {"model.embed_tokens_per_layer.weight": torch.ones(4, 8)}
    source = checkpoint(tmp_path / "a", "xxxx", {"num_hidden_layers": 4}, **parts)
    with pytest.raises(CompatibilityError, match="holds a part for each layer"):
        stack(source, tmp_path / "out", [0, 2])
    stack(source, tmp_path / "whole", [0, 2], [2, 4])


def test_slices_that_move_nothing_leave_the_config_as_it_is(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 4, "decoder_sparse_step": 2, "odd_layer_rule": 7, "dtype": "f"}
    config |= {"dtype": "float32", "attention_types": [[["g", "l"], 2]]}
    source = checkpoint(tmp_path / "a", "xyxy", config)
    before = (tmp_path / "a" / "config.json").read_bytes()
    stack(source, tmp_path / "out", [0, 2], [2, 4])
    assert (tmp_path / "out" / "config.json").read_bytes() == before
