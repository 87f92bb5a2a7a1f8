"""A hostile checkpoint in a whole command: exit code 2, one message, nothing left on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from flows.cli.program import run
from tests.support.hostile_files import INDEX, put, tensor, weights
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama

Attack = Callable[[Path], None]


def a_header_of_2_to_the_63_bytes(model: Path) -> None:
    (model / "model.safetensors").write_bytes(weights({"a": tensor()}, bytes(8), 2**63))


def an_index_that_leads_out(model: Path) -> None:
    (model / INDEX).write_text('{"weight_map": {"a": "../base/model.safetensors"}}')


def a_fifo_as_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()
    os.mkfifo(model / "model.safetensors")


def a_link_out_as_weights(model: Path) -> None:
    (model / "model.safetensors").rename(model.parent / "elsewhere.safetensors")
    (model / "model.safetensors").symlink_to("../elsewhere.safetensors")


def a_link_to_a_secret_as_config(model: Path) -> None:
    put(model.parent, secret='{"token": "hf_secret"}')
    (model / "config.json").unlink()
    (model / "config.json").symlink_to(model.parent / "secret")


def a_link_to_nothing_as_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.json").symlink_to("nowhere")


def a_fifo_as_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    os.mkfifo(model / "tokenizer.json")


def a_deep_config(model: Path) -> None:
    (model / "config.json").write_text("[" * 100_000)


def a_tokenizer_with_a_score_beyond_float(model: Path) -> None:
    (model / "tokenizer.json").write_text(
        '{"model": {"type": "Unigram", "vocab": [["a", 1' + "0" * 400 + "]]}}"
    )


def a_pickle_as_weights(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"\x80\x04K\x01." + bytes(100))


def a_module_out_of_the_directory(model: Path) -> None:
    (model / "modules.json").write_text('[{"path": "../base"}]')


def a_module_map_of_a_long_name(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / INDEX).write_text('{"weight_map": {"a": "' + "x" * 5000 + '.safetensors"}}')


def control_characters_in_names(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "\x1b]0;owned\x07\x1b[2J.bin").write_bytes(b"")


ATTACKS: dict[Attack, str] = {
    a_header_of_2_to_the_63_bytes: "claims a header of",
    an_index_that_leads_out: "not a file of this directory",
    a_fifo_as_weights: "is a FIFO, not a file",
    a_link_out_as_weights: "link that leaves the checkpoint's directory",
    a_link_to_a_secret_as_config: "link that leaves the checkpoint's directory",
    a_link_to_nothing_as_tokenizer: "cannot be read",
    a_fifo_as_tokenizer: "is a FIFO, not a file",
    a_deep_config: "nested too deeply",
    a_tokenizer_with_a_score_beyond_float: "unusable score",
    a_pickle_as_weights: "is a pickle or zip archive",
    a_module_out_of_the_directory: "modules.json points to '../base'",
    a_module_map_of_a_long_name: "not a file of this directory",
    control_characters_in_names: "is a pickle",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("role", ["base", "model"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_merge_is_refused_for(
    attack: Attack, role: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights_of_base = base_weights()
    for name in ("base", "tuned"):
        write_llama(tmp_path / name, fine_tuned(weights_of_base, len(name)))
    attack(tmp_path / {"base": "base", "model": "tuned"}[role])
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": "./base",
        "models": [{"model": "./tuned", "parameters": {"weight": 0.5}}],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    before = {each for each in tmp_path.rglob("*") if "home" not in each.parts}
    assert run(["merge", str(path), str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert ATTACKS[attack] in " ".join(said.split())
    assert said.count("error:") == 1
    assert "Traceback" not in said
    assert "hf_secret" not in said
    assert said.replace("\n", "").isprintable()
    assert {each for each in tmp_path.rglob("*") if "home" not in each.parts} == before
