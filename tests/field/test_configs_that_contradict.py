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
