"""Sizes that config.json states are those of the weights: else `verify` and `merge` say which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.cli import program
from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.verification.headers import CheckpointFacts, check_alone, facts_of
from merge_core.verification.verify import verify
from tests.support.many_architectures import SETTINGS, make_model
from tests.support.tiny_architectures import ARCHITECTURES
from tests.support.tiny_llama import described


def saved(name: str, directory: Path) -> CheckpointFacts:
    model = ARCHITECTURES[name]() if name in ARCHITECTURES else make_model(name)
    model.save_pretrained(directory / name)
    return facts_of(name, open_checkpoint(directory / name))


def contradictions(facts: CheckpointFacts, config: dict[str, Any]) -> list[str]:
    found = check_alone(CheckpointFacts(facts.name, facts.headers, config))
    return [each.message for each in found if each.code == "config-contradicts-weights"]


@pytest.mark.parametrize(
    "name",
    [*ARCHITECTURES, "Phi3", "DeepseekV3", "Gemma3", "MiniMax", "Bert", "Llama4Text", "NemotronH"],
)
def test_an_honest_config_is_not_refused(name: str, tmp_path: Path) -> None:
    facts = saved(name, tmp_path)
    assert contradictions(facts, dict(facts.config)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_no_honest_config_of_any_architecture_is_refused(name: str, tmp_path: Path) -> None:
    facts = saved(name, tmp_path)
    assert contradictions(facts, dict(facts.config)) == []


SIZES = {
    "llama": (
        *("hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "intermediate_size"),
    ),
    "mixtral": ("num_local_experts", "intermediate_size", "num_hidden_layers"),
    "qwen_moe": ("num_experts", "moe_intermediate_size", "shared_expert_intermediate_size"),
    "gpt2": ("n_embd", "n_layer", "vocab_size", "n_positions"),
    "bert": ("hidden_size", "intermediate_size", "max_position_embeddings"),
    "t5": ("d_model", "num_layers", "num_decoder_layers", "d_ff", "vocab_size"),
    "vit": ("num_hidden_layers", "intermediate_size"),
    "Phi3": ("num_attention_heads", "num_key_value_heads", "intermediate_size"),
    "DeepseekV3": (
        *("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"),
        *("n_routed_experts", "moe_intermediate_size", "intermediate_size"),
    ),
}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("changed", [lambda value: value * 2, lambda value: value - 1])
def test_every_size_that_is_stated_otherwise_is_named(
    name: str, changed: Any, tmp_path: Path
) -> None:
    facts = saved(name, tmp_path)
    for key in SIZES[name]:
        config = dict(facts.config)
        config[key] = changed(config[key])
        told = contradictions(facts, config)
        assert told, key
        assert "it says" in told[0]


_SPACE = ("mamba_d_conv", "mamba_d_state", "mamba_expand")
_SPACE_HEADS = (*_SPACE, "mamba_d_head", "mamba_n_heads")
INNER_SIZES = {
    "GraniteMoeHybrid": (*_SPACE_HEADS, "shared_intermediate_size"),
    "Jamba": (*_SPACE, "mamba_dt_rank"),
    "Bamba": (*_SPACE_HEADS, "mamba_n_groups"),
    "FalconH1": ("mamba_d_ssm", *_SPACE_HEADS[3:], *_SPACE[:2]),
    "Zamba2": (
        *(*_SPACE, "mamba_headdim", "n_mamba_heads", "intermediate_size"),
        *("num_attention_heads", "attention_head_dim", "adapter_rank"),
    ),
    "Mamba": ("conv_kernel", "state_size", "time_step_rank", "intermediate_size"),
    "Mamba2": ("conv_kernel", "state_size", "num_heads", "head_dim", "n_groups"),
    "NemotronH": (
        *("conv_kernel", "ssm_state_size", "mamba_num_heads", "mamba_head_dim"),
        "intermediate_size",
    ),
    "Lfm2": ("conv_L_cache",),
    "Qwen3Next": (
        *("linear_conv_kernel_dim", "linear_key_head_dim", "linear_num_key_heads"),
        *("linear_num_value_heads", "linear_value_head_dim"),
    ),
    "RecurrentGemma": ("conv1d_width", "lru_width"),
    "Gemma3n": (
        *("hidden_size_per_layer_input", "vocab_size_per_layer_input"),
        *("laurel_rank", "altup_num_inputs"),
    ),
    "Gemma4": ("hidden_size_per_layer_input", "vocab_size_per_layer_input"),
    "DeepseekV3": ("n_shared_experts",),
    "Ernie4_5_Moe": ("moe_num_shared_experts",),
    "ModernBert": ("intermediate_size",),
    "bert": ("type_vocab_size",),
    "t5": ("relative_attention_num_buckets", "num_heads", "d_kv"),
    "vit": ("patch_size", "num_channels"),
    "clip": ("projection_dim",),
}
"""Sizes inside a layer, by the architectures that state them."""


@pytest.mark.slow
@pytest.mark.parametrize("name", INNER_SIZES)
@pytest.mark.parametrize("changed", [lambda value: value * 2, lambda value: value + 1])
def test_every_size_inside_a_layer_that_is_stated_otherwise_is_named(
    name: str, changed: Any, tmp_path: Path
) -> None:
    facts = saved(name, tmp_path)
    assert contradictions(facts, dict(facts.config)) == []
    for key in INNER_SIZES[name]:
        config = dict(facts.config)
        config[key] = changed(config[key])
        assert contradictions(facts, config), key


def test_a_size_that_is_not_about_a_tensor_of_that_form_is_not_compared() -> None:
    """Names of published models that mean another thing by them."""
    space = {"hidden_size": 8, "mamba_expand": 2, "mamba_d_state": 4, "n_mamba_heads": 2}
    heads = {"model.layers.0.mamba.A_log": ("F32", (2, 8, 4))}  # by head, channel and state
    assert contradictions(CheckpointFacts("zamba", heads, {}), space) == []
    patches = {"vit.embeddings.patch_embeddings.projection.weight": ("F32", (8, 64, 1, 1))}
    after_another = {"hidden_size": 8, "patch_size": 1, "num_channels": 3}
    assert contradictions(CheckpointFacts("hybrid", patches, {}), after_another) == []
    films = {"videomae.embeddings.patch_embeddings.projection.weight": ("F32", (8, 3, 2, 16, 16))}
    film = {"hidden_size": 8, "patch_size": 16, "num_channels": 3}
    assert contradictions(CheckpointFacts("film", films, {}), film) == []


@pytest.mark.parametrize("name", ["llava", "qwen_vl"])
@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "num_hidden_layers"])
def test_a_text_model_inside_a_larger_one_is_compared(name: str, key: str, tmp_path: Path) -> None:
    facts = saved(name, tmp_path)
    text = dict(facts.config["text_config"])
    text[key] += 2
    config = {**facts.config, "text_config": text}
    config.pop(key, None)
    assert contradictions(facts, config)


def test_a_padded_vocabulary_is_honest_where_the_config_says_so(tmp_path: Path) -> None:
    facts = saved("llama", tmp_path)
    padded = {**facts.config, "vocab_size": 61, "pad_vocab_size_multiple": 8}
    assert contradictions(facts, padded) == []
    assert contradictions(facts, {**facts.config, "vocab_size": 61})


def test_verify_and_merge_refuse_what_could_not_be_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved("llama", tmp_path)
    path = tmp_path / "llama" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_size": 32}))
    report = verify(None, [described(tmp_path / "llama")])
    assert [finding.code for finding in report.errors] == ["config-contradicts-weights"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("merge_method: passthrough\nmodels: [{model: ./llama}]\n")
    assert program.run(["merge", str(recipe), str(tmp_path / "out")]) == 2
    assert "hidden_size: 32" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
