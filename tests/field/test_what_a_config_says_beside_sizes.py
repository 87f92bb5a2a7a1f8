"""What a config says of a model beside its sizes: biases, a head, labels, functions.

Where it says otherwise than the weights, a class starts parts at random or leaves weights out.
Where two configs say otherwise, the mean is of rows or layers that mean other things.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.by_command import User, advised_line
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama

UP, QUERY = "model.layers.0.mlp.up_proj.bias", "model.layers.0.self_attn.q_proj"
CLASSIFIER = {"architectures": ["LlamaForSequenceClassification"], "num_hidden_layers": 2}
Config = dict[str, Any]


@pytest.fixture
def user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> User:
    monkeypatch.chdir(tmp_path)
    user = User(tmp_path, capsys)
    user.recipe(["./a", "./b"])
    return user


def saved(user: User, config: Config, other: Config | None = None, **more: torch.Tensor) -> None:
    weights = base_weights()
    if "architectures" in config:
        del weights["lm_head.weight"]
    named = {name.replace("__", "."): tensor for name, tensor in more.items()}
    for name, own in (("a", config), ("b", config if other is None else other)):
        tuned = fine_tuned(weights, ord(name)) | named
        write_llama(user.directory / name, tuned, config={"num_hidden_layers": 2, **own})


def plan(user: User) -> tuple[int, str]:
    code, said = user.run("plan", "r.yaml")
    return code, " ".join(said.split())


@pytest.mark.parametrize(
    ("config", "tensors", "told"),
    [
        (
            {"attention_bias": True},
            {},
            "no tensor is such a bias, and it says attention_bias: true",
        ),
        ({"mlp_bias": True}, {}, "no tensor is such a bias, and it says mlp_bias: true"),
        (
            {"attention_bias": False},
            {f"{QUERY}.bias".replace(".", "__"): torch.ones(16)},
            f"there is {QUERY}.bias, and it says attention_bias: false",
        ),
        (
            {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False},
            {},
            "there is no output head, and it says tie_word_embeddings: false",
        ),
        (
            CLASSIFIER | {"id2label": {"0": "a", "1": "b"}},
            {"score__weight": torch.ones(3, 16)},
            "the number of labels is 3, and it says labels in id2label: 2",
        ),
        (
            CLASSIFIER | {"num_labels": 2},
            {"score__weight": torch.ones(3, 16)},
            "the number of labels is 3, and it says num_labels: 2",
        ),
    ],
)
def test_parts_that_a_config_states_otherwise_are_named(
    config: Config, tensors: dict[str, torch.Tensor], told: str, user: User
) -> None:
    saved(user, config, **tensors)
    code, said = plan(user)
    assert (code, told in said) == (2, True), said


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        ({"attention_bias": True}, {f"{QUERY}.bias".replace(".", "__"): torch.ones(16)}),
        ({"mlp_bias": True}, {UP.replace(".", "__"): torch.ones(48)}),
        ({"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}, {}),
        (CLASSIFIER, {"score__weight": torch.ones(2, 16)}),
    ],
)
def test_parts_that_are_there_as_stated_are_no_matter(
    config: Config, tensors: dict[str, torch.Tensor], user: User
) -> None:
    saved(user, config, **tensors)
    assert plan(user)[0] == 0


def labelled(*names: str) -> Config:
    return CLASSIFIER | {"id2label": {str(row): name for row, name in enumerate(names)}}


def test_labels_in_another_order_are_refused_and_the_body_can_be_merged(user: User) -> None:
    saved(user, labelled("bad", "good"), labelled("good", "bad"), score__weight=torch.eye(2, 16))
    code, said = user.run("plan", "r.yaml")
    assert (code, "row 0 is good, there bad" in said) == (2, True), said
    user.recipe(["./a", "./b"], more=advised_line(" ".join(said.split())))
    assert user.merge()[0] == 0
    assert torch.equal(user.result()["score.weight"], torch.eye(2, 16))


def test_an_exclude_that_is_there_is_added_to(user: User) -> None:
    saved(user, labelled("bad", "good"), labelled("good", "bad"), score__weight=torch.eye(2, 16))
    user.recipe(["./a", "./b"], more='exclude: [{glob: "model.norm.*"}]')
    code, said = plan(user)
    assert (code, 'add {glob: "score.*"} to `exclude`' in said) == (2, True), said
    user.recipe(["./a", "./b"], more='exclude: [{glob: "model.norm.*"}, {glob: "score.*"}]')
    assert plan(user)[0] == 0


def test_labels_put_in_the_bases_order_are_merged(user: User) -> None:
    saved(user, labelled("bad", "good"), labelled("good", "bad"), score__weight=torch.eye(2, 16))
    path = user.directory / "b/model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"score.weight": tensors["score.weight"].flip(0)}, path)
    shutil.copy(user.directory / "a/config.json", user.directory / "b")
    assert user.merge()[0] == 0
    assert torch.equal(user.result()["score.weight"][:, :2], torch.full((2, 2), 0.5))


def test_other_names_of_labels_are_told(user: User) -> None:
    score = torch.ones(2, 16)
    saved(user, labelled("bad", "good"), labelled("negative", "positive"), score__weight=score)
    code, said = plan(user)
    assert (code, "its labels are not those of ./a" in said) == (0, True), said
    user.recipe(["./a", "./b"], more='exclude: [{glob: "score.*"}]')
    assert "its labels are not" not in plan(user)[1]


def test_labels_without_names_are_no_matter(user: User) -> None:
    score = torch.ones(2, 16)
    saved(user, labelled("bad", "good"), labelled("LABEL_0", "LABEL_1"), score__weight=score)
    code, said = plan(user)
    assert (code, "label" in said) == (0, False), said


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        ("hidden_act", "silu", "gelu"),
        ("final_logit_softcapping", 30.0, None),
        ("num_experts_per_tok", 2, 4),
        ("residual_multiplier", 0.22, 1.0),
        ("layer_types", ["sliding_attention"] * 2, ["full_attention"] * 2),
    ],
)
def test_settings_that_compute_otherwise_are_told(
    key: str, one: object, other: object, user: User
) -> None:
    saved(user, {key: one}, {key: other})
    code, said = plan(user)
    assert (code, f"{key} {other} instead of" in said) == (0, True), said


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ({"alibi": True}, {"alibi": False}, "alibi False instead of True"),
        ({"clip_qkv": None}, {"clip_qkv": 8.0}, "clip_qkv 8.0 instead of None"),
        ({"feed_forward_proj": "gelu"}, {"feed_forward_proj": "silu"}, "feed_forward_proj silu"),
        ({}, {"use_bidirectional_attention": True}, "use_bidirectional_attention True"),
        ({"use_rope": True}, {"use_rope": False}, "use_rope False instead of True"),
        (
            {"vision_config": {"hidden_act": "gelu"}},
            {"vision_config": {"hidden_act": "quick_gelu"}},
            "vision_config.hidden_act quick_gelu instead of gelu",
        ),
        (
            {"text_config": {"vocab_size": 32}, "projector_hidden_act": "gelu"},
            {"text_config": {"vocab_size": 32}, "projector_hidden_act": "relu"},
            "projector_hidden_act relu instead of gelu",
        ),
        ({"select_layer": -2}, {"select_layer": -1}, "select_layer -1 instead of -2"),
    ],
)
def test_a_setting_that_nobody_listed_is_told_in_any_part(
    one: Config, other: Config, told: str, user: User
) -> None:
    saved(user, one, other)
    code, said = plan(user)
    assert (code, told in said) == (0, True), said


def test_a_tower_of_other_heads_is_refused(user: User) -> None:
    """The same weights are cut otherwise, and no shape shows it."""
    towers = [{"vision_config": {"num_attention_heads": heads}} for heads in (16, 8)]
    saved(user, *towers)
    code, said = plan(user)
    assert code == 2
    assert "vision_config.num_attention_heads 8 instead of 16" in said


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"clip_qkv": 8.0}),
        ({"is_decoder": False}, {}),
        ({"transformers_version": "4.1"}, {"transformers_version": "5.1"}),
        ({"pretraining_tp": 1}, {"pretraining_tp": 2}),
        ({"sliding_window": None}, {"sliding_window": 4096}),
        (
            {"vision_config": {"attention_dropout": 0.0}},
            {"vision_config": {"attention_dropout": 1}},
        ),
        ({"router_aux_loss_coef": 0.1}, {"router_aux_loss_coef": 0.2}),
    ],
)
def test_what_says_nothing_of_the_weights_is_not_told(
    one: Config, other: Config, user: User
) -> None:
    saved(user, one, other)
    code, said = plan(user)
    assert (code, "says otherwise" in said) == (0, False), said


@pytest.mark.parametrize("key", ["use_cache", "initializer_range", "attention_dropout", "_name"])
def test_settings_of_training_are_no_matter(key: str, user: User) -> None:
    saved(user, {key: 1}, {key: 2})
    assert "computes otherwise" not in plan(user)[1]


@pytest.mark.parametrize("default", ["", ".default"])
def test_factors_that_nobody_added_are_refused_until_they_are(default: str, user: User) -> None:
    saved(user, {})
    for name in ("a", "b"):
        path = user.directory / name / "model.safetensors"
        tensors = load_file(path)
        weight = tensors.pop(f"{QUERY}.weight")
        apart = {
            f"{QUERY}.base_layer.weight": weight,
            f"{QUERY}.lora_A{default}.weight": torch.ones(2, 16),
            f"{QUERY}.lora_B{default}.weight": torch.ones(16, 2),
        }
        save_file(tensors | apart, path)
    code, said = plan(user)
    assert (code, "2 factors of a LoRA among its weights, not added" in said) == (2, True), said
    assert "merge_and_unload" in said
    for name in ("a", "b"):
        path = user.directory / name / "model.safetensors"
        tensors = load_file(path)
        factors = [tensors.pop(f"{QUERY}.lora_{each}{default}.weight") for each in "BA"]
        weight = tensors.pop(f"{QUERY}.base_layer.weight") + factors[0] @ factors[1]
        save_file(tensors | {f"{QUERY}.weight": weight}, path)
    assert plan(user)[0] == 0


def test_factors_that_a_class_has_of_its_own_are_merged(user: User) -> None:
    """Phi-4-multimodal's, one pair for each kind of input."""
    factor = {f"{QUERY}.lora_A.vision.weight".replace(".", "__"): torch.ones(2, 16)}
    saved(user, {}, **factor)
    assert plan(user)[0] == 0
