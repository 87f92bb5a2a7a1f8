"""An adapter that is more, or other, than a product added to its base is refused; all that PEFT
merges alike is exact.

The right weights are PEFT's own: the trained model in memory, merged by PEFT.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from merge_core.checkpoints.adapters import open_adapter
from merge_core.errors import CheckpointError, CompatibilityError
from merge_core.verification.verify import verify
from tests.support.adapters import random_factors, write_adapter
from tests.support.checkpoints import run_recipe
from tests.support.tiny_llama import described
from tests.support.trained_adapters import MODULE, applied, base_model, peft, trained


@pytest.mark.parametrize(
    "settings",
    [
        {"init_lora_weights": True},
        {"init_lora_weights": False},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": "mica"},
        {"use_rslora": True, "rank_pattern": {"up_proj": 2}, "alpha_pattern": {"q_proj": 3}},
        {"use_dora": True},
        {"exclude_modules": ["layers.1.self_attn.q_proj"]},
        {"layers_to_transform": [1], "layers_pattern": "layers"},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": "all-linear"},
    ],
    ids=str,
)
def test_what_peft_merges_alike_is_applied_as_peft_applies_it(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    model = base_model()
    model.save_pretrained(tmp_path / "base")
    adapted = trained(copy.deepcopy(model), **settings)
    adapted.save_pretrained(tmp_path / "lora")
    ours = applied(tmp_path / "base", tmp_path / "lora", tmp_path / "out")
    theirs = adapted.merge_and_unload().state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(ours[name], model.state_dict()[name]) for name in ours)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init_lora_weights": "pissa_init"}, "taken out of the base's weights"),
        ({"init_lora_weights": "PiSSA"}, "taken out of the base's weights"),
        ({"init_lora_weights": "olora_2"}, "a start that is not known here"),
        ({"init_lora_weights": "corda"}, "taken out of the base's weights"),
        ({"init_lora_weights": "lora_ga"}, "taken out of the base's weights"),
        ({"init_lora_weights": "loftq"}, "LoftQ had rounded"),
        ({"init_lora_weights": "milora"}, "a start that is not known here"),
        ({"init_lora_weights": 1}, "a start that is not known here"),
        ({"init_lora_weights": ["pissa"]}, "a start that is not known here"),
        ({"kasa_config": {"beta": 1}}, "kasa_config is set"),
        ({"velora_config": {"num_groups": 2}}, "velora_config is set"),
        ({"megatron_config": {"tensor_model_parallel_size": 2}}, "megatron_config is set"),
        ({"layer_replication": [[0, 2]]}, "repeats layers"),
        ({"lora_bias": True}, "biases of its own"),
        ({"bias": "lora_only"}, "changes biases"),
        ({"trainable_token_indices": {"embed_tokens": [1]}}, "single tokens"),
        ({"target_parameters": ["experts.up"]}, "no module's weight"),
        ({"use_tomorrows_lora": True}, "use_tomorrows_lora is 'True'"),
        ({"tomorrows_config": {"scale": 2}}, "not known here"),
        ({"tomorrows_scale": 0}, "not known here"),
        ({"exclude_modules": ["q_proj"]}, "exclude_modules"),
        ({"exclude_modules": r".*\.q_proj"}, "exclude_modules"),
    ],
)
def test_a_setting_that_is_not_known_to_leave_the_sum_right_is_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    directory = write_adapter(tmp_path / "a", random_factors({MODULE: (8, 8)}, 2), **settings)
    with pytest.raises(CheckpointError) as caught:
        open_adapter(directory)
    assert message in str(caught.value)
    assert caught.value.mend


def test_the_settings_that_peft_writes_by_itself_are_read(tmp_path: Path) -> None:
    settings = peft.LoraConfig(target_modules=["q_proj"], r=2, lora_alpha=2).to_dict()
    settings |= {"peft_type": "LORA", "target_modules": ["q_proj"], "new_option": None}
    settings |= {"new_flag": False, "new_list": [], "init_lora_weights": "eva"}
    directory = write_adapter(tmp_path / "a", random_factors({MODULE: (8, 8)}, 2))
    (directory / "adapter_config.json").write_text(json.dumps(settings, default=str))
    assert [pair.module for pair in open_adapter(directory).pairs] == [MODULE]


def test_a_module_that_should_be_saved_in_full_and_is_not_there_is_named(tmp_path: Path) -> None:
    base_model().save_pretrained(tmp_path / "base")
    factors = random_factors({MODULE: (16, 16)}, 2)
    lost = write_adapter(tmp_path / "lost", factors, modules_to_save=["lm_head"])
    with pytest.raises(CompatibilityError, match="modules_to_save names lm_head"):
        applied(tmp_path / "base", lost, tmp_path / "out")
    other = write_adapter(tmp_path / "other", factors, modules_to_save=["classifier", "score"])
    assert applied(tmp_path / "base", other, tmp_path / "out")


def test_a_head_that_the_base_lacks_is_called_a_head_and_the_mend_works(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = base_model(pad_token_id=0)
    model.save_pretrained(tmp_path / "base")
    torch.manual_seed(1)
    reward = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    adapted = trained(reward, task_type="SEQ_CLS")
    adapted.save_pretrained(tmp_path / "lora")
    with pytest.raises(CompatibilityError, match=r"a head that .* does not have") as caught:
        applied(tmp_path / "base", tmp_path / "lora", tmp_path / "out")
    assert "AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=1)" in str(
        caught.value.mend
    )
    torch.manual_seed(2)
    mended = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    mended.save_pretrained(tmp_path / "rm-base")
    ours = applied(tmp_path / "rm-base", tmp_path / "lora", tmp_path / "out")
    theirs = adapted.merge_and_unload().state_dict()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [40, 50])
def test_resized_rows_are_told_and_resizing_the_base_is_the_mend(tmp_path: Path, rows: int) -> None:
    model = base_model()
    model.save_pretrained(tmp_path / "base")
    resized = copy.deepcopy(model)
    resized.resize_token_embeddings(rows)
    adapted = trained(resized, modules_to_save=["embed_tokens", "lm_head"])
    adapted.save_pretrained(tmp_path / "lora")
    with pytest.raises(CompatibilityError) as caught:
        applied(tmp_path / "base", tmp_path / "lora", tmp_path / "out")
    assert f"has {rows} rows here and 48 in" in str(caught.value)
    assert f"resize_token_embeddings({rows})" in str(caught.value.mend)
    model.resize_token_embeddings(rows)
    model.save_pretrained(tmp_path / "resized")
    ours = applied(tmp_path / "resized", tmp_path / "lora", tmp_path / "out")
    theirs = adapted.merge_and_unload().state_dict()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-6)


def test_an_adapter_beside_full_weights_is_told_and_stays_out_of_the_result(tmp_path: Path) -> None:
    model = base_model()
    trained(copy.deepcopy(model)).save_pretrained(tmp_path / "both")
    model.save_pretrained(tmp_path / "both")
    source = described(tmp_path / "both")
    report = verify(None, [source])
    assert "adapter-beside-weights" in {finding.code for finding in report.warnings}
    recipe = {"merge_method": "passthrough", "models": [{"model": "both"}]}
    run_recipe(recipe, {"both": source}, tmp_path / "out")
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(ours[name], tensor) for name, tensor in model.state_dict().items())
    assert not [path.name for path in (tmp_path / "out").iterdir() if "adapter" in path.name]
