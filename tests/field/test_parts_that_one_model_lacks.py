"""Blocks, heads, towers and buffers that only one of the models has: what they are called, and the
line that leaves them out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merge_core.verification.left_out import block_of, exclude_line
from tests.support.by_command import User, advised_line
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama

LAYERS = {"num_hidden_layers": 2}


@pytest.fixture
def user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> User:
    monkeypatch.chdir(tmp_path)
    base = base_weights()
    write_llama(tmp_path / "base", base, config=LAYERS)
    write_llama(tmp_path / "one", fine_tuned(base, 1), config=LAYERS)
    write_llama(tmp_path / "two", fine_tuned(base, 2), config=LAYERS)
    user = User(tmp_path, capsys)
    user.recipe(["./one", "./two"], base="./base")
    assert user.merge("plain")[0] == 0
    return user


def change(directory: Path, more: dict[str, torch.Tensor], *less: str, **config: object) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path) | more
    save_file({name: it for name, it in tensors.items() if name not in less}, path)
    place = directory / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | config))


MTP = {
    "mtp.fc.weight": (16, 32),
    "mtp.layers.0.mlp.up_proj.weight": (24, 16),
    "mtp.norm.weight": (16,),
}
NUMBERED = {
    "model.layers.2.eh_proj.weight": (16, 32),
    "model.layers.2.mlp.up_proj.weight": (48, 16),
}
TOWER = {"visual.patch_embed.weight": (16, 8), "visual.blocks.0.attn.q_proj.weight": (8, 8)}
SCORE = {"score.weight": (1, 16)}


@pytest.mark.parametrize(
    ("tensors", "config", "called"),
    [
        (MTP, {"mtp_num_hidden_layers": 1}, "a block that predicts further tokens (MTP)"),
        (NUMBERED, {"num_nextn_predict_layers": 1}, "a block that predicts further tokens (MTP)"),
        (TOWER, {}, "a vision tower"),
    ],
)
def test_what_every_fine_tune_lost_stays_the_bases_by_the_advised_line(
    tensors: dict[str, tuple[int, ...]], config: dict[str, int], called: str, user: User
) -> None:
    own = {name: torch.rand(shape) for name, shape in tensors.items()}
    change(user.directory / "base", own, **config)
    code, said = user.merge()
    assert (code, called in said) == (2, True), said
    user.recipe(["./one", "./two"], base="./base", more=advised_line(said))
    code, said = user.merge()
    assert (code, "warning" in said) == (0, False), said
    result, plain = user.result(), user.result("plain")
    assert all(torch.equal(result[name], own[name]) for name in own)
    assert all(torch.equal(result[name], plain[name]) for name in plain)


def test_a_head_that_only_one_model_has_is_left_out_by_the_advised_line(user: User) -> None:
    change(user.directory / "one", {"v_head.summary.weight": torch.ones(1, 16)})
    code, said = user.merge()
    assert (code, "a value head, as PPO trains one" in said) == (2, True)
    user.recipe(["./one", "./two"], base="./base", more=advised_line(said))
    code, said = user.merge()
    assert (code, "decides on no tensor" in said) == (0, False), said
    assert set(user.result()) == set(user.result("plain"))


def test_a_classifier_among_language_models_is_called_so_and_its_body_can_be_merged(
    user: User,
) -> None:
    change(
        user.directory / "one",
        {"score.weight": torch.ones(1, 16)},
        "lm_head.weight",
        architectures=["LlamaForSequenceClassification"],
    )
    code, said = user.merge()
    assert code == 2
    assert "the head of a classifier or reward model: score.weight" in said
    assert "it is a LlamaForSequenceClassification (llama), ./base is a LlamaForCausalLM" in said
    assert said.count('`exclude: [{glob: "lm_head.*"}, {glob: "score.*"}]`') == 3
    user.recipe(["./one", "./two"], base="./base", more=advised_line(said))
    code, said = user.merge()
    assert code == 0, said
    assert "the result is a LlamaForCausalLM" in said
    base = load_file(user.directory / "base/model.safetensors")
    assert torch.equal(user.result()["lm_head.weight"], base["lm_head.weight"])


def test_an_exclude_that_is_there_is_added_to(user: User) -> None:
    change(user.directory / "one", {"v_head.summary.weight": torch.ones(1, 16)})
    user.recipe(["./one", "./two"], base="./base", more="exclude: [norm]")
    code, said = user.merge()
    assert (code, 'add {glob: "v_head.*"} to `exclude`' in said) == (2, True), said
    more = 'exclude: [norm, {glob: "v_head.*"}]'
    user.recipe(["./one", "./two"], base="./base", more=more)
    assert user.merge()[0] == 0


@pytest.mark.parametrize("holder", ["base", "one"])
def test_buffers_that_code_computes_are_no_difference(holder: str, user: User) -> None:
    buffers = {
        f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.tensor([1.0, 0.01])
        for layer in range(2)
    } | {"model.layers.0.attn.bias": torch.ones(1, 1, 8, 8).tril()}
    change(user.directory / holder, buffers)
    code, said = user.merge()
    assert (code, "warning" in said) == (0, False), said
    result, plain = user.result(), user.result("plain")
    kept = set(buffers) if holder == "base" else set()
    assert set(result) == set(plain) | kept
    assert all(torch.equal(result[name], buffers[name]) for name in kept)
    assert all(torch.equal(result[name], plain[name]) for name in plain)


def test_a_layer_that_lacks_a_part_is_not_advised_away(user: User) -> None:
    change(user.directory / "one", {}, "model.layers.0.mlp.up_proj.weight")
    code, said = user.merge()
    assert (code, "exclude" in said) == (2, False)
    assert "no file of it is missing" in said


def test_the_line_leaves_out_these_tensors_and_no_others() -> None:
    both = ["model.embed_tokens.weight", "model.layers.0.mlp.weight", "model.layers.1.mlp.weight"]
    lost = [f"model.layers.{layer}.extra.weight" for layer in range(2)]
    assert exclude_line(lost, both) == 'write `exclude: [{glob: "model.layers.*.extra.*"}]`'
    assert exclude_line(["odd'; name.weight"], both) is None
    assert exclude_line([f"{name}.weight" for name in "abcdefgh"], both * 4) is None
    assert exclude_line(lost + both, both) is None, "more is lost than kept"
    assert block_of(["model.norm.weight"]) is None
    assert block_of(["transformer.h.0.mlp.weight", "score.weight"]) is None
