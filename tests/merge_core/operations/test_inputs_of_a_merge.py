"""Inputs that change while a merge copies from them, or whose places are unusual."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from merge_core.checkpoints.sources import describe_source
from merge_core.errors import CheckpointError, MergeflowError
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.operations import execute
from merge_core.operations.merge import merge
from merge_core.recipes.loading import parse_recipe
from merge_core.records import CheckpointManifest
from tests.support.checkpoints import write_checkpoint

RECIPE = parse_recipe(
    {"merge_method": "linear", "models": [{"model": "a"}, {"model": "b"}]}, "recipe"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate("ab"):
        generator = torch.Generator().manual_seed(seed)
        tensor = torch.randn(5000, generator=generator).bfloat16()
        write_checkpoint(tmp_path / name, {"layers.0.weight": tensor})
    return tmp_path


def run(root: Path, out: str, b: str = "b") -> CheckpointManifest:
    memo = DigestMemo(root / "home" / "digests.sqlite")
    places = {"a": "a", "b": b}
    sources = {name: describe_source(name, root / place, memo) for name, place in places.items()}
    return merge(RECIPE, sources, home=Home(root / "home"), out=root / out, check=False)


def test_a_config_that_changes_while_it_is_copied_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = execute.write_model_files

    def write(*arguments: Any) -> Any:
        (root / "a" / "config.json").write_text(json.dumps({"model_type": "llama", "new": True}))
        return writing(*arguments)

    monkeypatch.setattr(execute, "write_model_files", write)
    with pytest.raises(CheckpointError, match="changed"):
        run(root, "out")
    assert not (root / "out").exists()


def test_a_directory_whose_name_is_not_utf_8(root: Path) -> None:
    expected = run(root, "expected").object_id
    strange = os.fsdecode(b"\xff\xfe")
    (root / "b").rename(root / strange)
    assert run(root, "out", strange).object_id == expected


def test_an_input_that_cannot_be_looked_at_is_told(root: Path) -> None:
    (root / "b" / "model.safetensors").unlink()
    (root / "b" / "model.safetensors").symlink_to("nowhere")
    with pytest.raises(MergeflowError) as caught:
        run(root, "out")
    assert caught.value.mend
