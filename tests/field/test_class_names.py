"""Class names in config.json that are a wrapper's, missing, or another's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from merge_core.verification.class_comparison import with_class_of
from tests.support.by_command import User
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
    user = User(tmp_path, capsys)
    user.recipe(["./one", "./base"])
    return user


def name_class(directory: Path, value: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": value}))


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (["FSDPLlamaForCausalLM"], "a wrapper that training put around the model"),
        (["OptimizedModule"], "a wrapper that training put around the model"),
        (None, "names no class"),
        ([], "names no class"),
    ],
)
def test_a_donors_wrong_name_is_told_and_is_not_in_the_result(
    named: Any, told: str, user: User
) -> None:
    name_class(user.directory / "one", named)
    code, said = user.merge()
    assert (code, told in said) == (0, True), said
    assert '"architectures": ["LlamaForCausalLM"]' in said or named == ["OptimizedModule"]
    config = json.loads((user.directory / "out/config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    name_class(user.directory / "one", ["LlamaForCausalLM"])
    code, said = user.merge("corrected")
    assert (code, "warning" in said) == (0, False), said


def test_a_wrappers_name_that_all_have_is_taken_out(user: User) -> None:
    for name in ("base", "one"):
        name_class(user.directory / name, ["FSDPLlamaForCausalLM"])
    code, said = user.merge()
    assert (code, said.count("which is a wrapper")) == (0, 2), said
    config = json.loads((user.directory / "out/config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]


def test_another_class_of_the_same_tensors_is_corrected_by_hand(user: User) -> None:
    name_class(user.directory / "one", ["LlamaForTokenClassification"])
    code, said = user.merge()
    assert code == 2
    assert "correct `architectures` in that config.json" in said
    name_class(user.directory / "one", ["LlamaForCausalLM"])
    assert user.merge()[0] == 0


def test_nothing_is_guessed_where_the_others_do_not_agree() -> None:
    donor = {"architectures": None, "model_type": "llama"}
    one = {"architectures": ["A"], "model_type": "llama"}
    assert with_class_of(donor, {"one": one})["architectures"] == ["A"]
    two = {"architectures": ["B"], "model_type": "llama"}
    assert with_class_of(donor, {"one": one, "two": two}) == donor
    assert with_class_of(donor, {"one": one | {"model_type": "bert"}}) == donor


def test_weights_are_merged_alike_whatever_the_class_is_called(user: User) -> None:
    assert user.merge("plain")[0] == 0
    name_class(user.directory / "one", None)
    assert user.merge()[0] == 0
    plain = user.result("plain")
    assert all(torch.equal(it, plain[name]) for name, it in user.result().items())
