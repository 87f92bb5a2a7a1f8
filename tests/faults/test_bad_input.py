"""Bad input gives one clear message, exit code 2, and changes nothing on disk."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from flows.cli.program import run
from flows.model_zoo import Zoo

Breaker = Callable[[Path, dict[str, Any]], None]


def recipe_of(zoo: Path) -> dict[str, Any]:
    return {
        "merge_method": "task_arithmetic",
        "base_model": str(zoo / "base"),
        "models": [
            {"model": str(zoo / "code-expert"), "parameters": {"weight": 0.5}},
            {"model": str(zoo / "prose-expert"), "parameters": {"weight": 0.5}},
        ],
    }


def wrong_base(zoo: Path, recipe: dict[str, Any]) -> None:
    recipe["base_model"] = str(zoo / "other-run")


def wrong_expert(zoo: Path, recipe: dict[str, Any]) -> None:
    recipe["models"][1]["model"] = str(zoo / "other-run")


def other_tokenizer(zoo: Path, recipe: dict[str, Any]) -> None:
    recipe["models"][1]["model"] = str(zoo / "other-tokenizer")


def missing_shard(zoo: Path, _recipe: dict[str, Any]) -> None:
    expert = zoo / "prose-expert"
    (expert / "model.safetensors").rename(expert / "model-00001-of-00002.safetensors")
    names = load_file(expert / "model-00001-of-00002.safetensors")
    weight_map = dict.fromkeys(names, "model-00001-of-00002.safetensors")
    weight_map[next(iter(names))] = "model-00002-of-00002.safetensors"
    index = {"metadata": {}, "weight_map": weight_map}
    (expert / "model.safetensors.index.json").write_text(json.dumps(index))


def truncated_file(zoo: Path, _recipe: dict[str, Any]) -> None:
    weights = zoo / "prose-expert" / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size - 1000)


def unknown_method(_zoo: Path, recipe: dict[str, Any]) -> None:
    recipe["merge_method"] = "task_arithmetics"


def typo_in_a_parameter(_zoo: Path, recipe: dict[str, Any]) -> None:
    recipe["models"][0]["parameters"] = {"weigth": 0.5}


def weights_for_an_unlisted_model(zoo: Path, recipe: dict[str, Any]) -> None:
    recipe["parameters"] = {"weight": {str(zoo / "maths-expert"): 0.5}}


def pickled_checkpoint(zoo: Path, _recipe: dict[str, Any]) -> None:
    weights = zoo / "prose-expert" / "model.safetensors"
    torch.save(load_file(weights), zoo / "prose-expert" / "pytorch_model.bin")
    weights.unlink()


def nan_in_the_weights(zoo: Path, _recipe: dict[str, Any]) -> None:
    weights = zoo / "prose-expert" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.1.mlp.up_proj.weight"].view(-1)[7] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})


def missing_directory(zoo: Path, recipe: dict[str, Any]) -> None:
    recipe["models"][1]["model"] = str(zoo / "prose-expret")


CASES: dict[Breaker, list[str]] = {
    wrong_base: ["other-run", "not a fine-tune"],
    wrong_expert: ["other-run", "not a fine-tune"],
    other_tokenizer: ["other-tokenizer", "token"],
    missing_shard: ["model-00002-of-00002.safetensors", "missing"],
    truncated_file: ["prose-expert", "truncated"],
    unknown_method: ["unknown method 'task_arithmetics'", "did you mean 'task_arithmetic'?"],
    typo_in_a_parameter: ["models[0].parameters.weigth", "did you mean 'weight'?"],
    weights_for_an_unlisted_model: ["maths-expert", "not listed"],
    pickled_checkpoint: ["pytorch_model.bin", "pickle", "save_pretrained"],
    nan_in_the_weights: ["prose-expert", "model.layers.1.mlp.up_proj.weight", "NaN"],
    missing_directory: ["prose-expret"],
}


@pytest.fixture
def zoo(tiny_zoo: Zoo, tmp_path: Path) -> Path:
    copy = tmp_path / "zoo"
    for model in ("base", "code-expert", "prose-expert", "other-run", "other-tokenizer"):
        shutil.copytree(Path(tiny_zoo.base).parent / model, copy / model)
    return copy


def listing(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def refuse(arguments: list[str], root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail with code 2 and change nothing; returns its message."""
    before = listing(root)
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    left = {name for name in listing(root) - before if not name.startswith("home")}
    assert left == set()
    return " ".join(captured.err.split())


@pytest.mark.parametrize("breaker", CASES, ids=lambda breaker: breaker.__name__)
def test_a_broken_merge_is_refused(
    breaker: Breaker, zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of(zoo)
    breaker(zoo, recipe)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    message = refuse(["merge", str(path), str(tmp_path / "out")], tmp_path, capsys)
    for part in CASES[breaker]:
        assert part in message
    assert message.count("error:") <= 1


def test_an_output_directory_that_exists_is_refused(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_of(zoo)))
    (tmp_path / "out").mkdir()
    message = refuse(["merge", str(path), str(tmp_path / "out")], tmp_path, capsys)
    assert "already exists" in message


def test_a_disk_that_is_too_small_is_refused_before_the_start(
    zoo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Full:
        f_bavail, f_frsize = 1000, 4096

    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_of(zoo)))
    monkeypatch.setattr(os, "statvfs", lambda _path: Full)
    message = refuse(["merge", str(path), str(tmp_path / "out")], tmp_path, capsys)
    assert "GB free, the merge needs" in message
