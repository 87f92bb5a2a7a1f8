"""A Hub cache's folder, an index that lists what is nowhere, modules with weights of their own,
rows that differ, adapters of another base: each mend is followed, and helps."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.adapters import random_factors, write_adapter
from tests.support.by_command import User
from tests.support.checkpoints import write_checkpoint
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
    user.recipe(["./one"], base="./base")
    return user


@pytest.mark.parametrize("below", ["", "/snapshots"])
def test_the_folder_of_a_repository_in_the_hub_cache_names_its_snapshot(
    below: str, user: User
) -> None:
    root = user.directory / "hub" / "models--org--name"
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(user.directory / "one", root / "snapshots" / commit)
    (root / "refs").mkdir()
    (root / "refs/main").write_text("a" * 40)
    user.recipe([f"{root}{below}"], base="./base")
    code, said = user.merge()
    assert code == 2
    named = re.search(r"name the snapshot in it: (\S+)", said)
    assert named, said
    assert named[1].endswith("a" * 40)
    user.recipe([named[1]], base="./base")
    assert user.merge()[0] == 0


def test_an_entry_of_the_index_that_is_nowhere_is_removed_as_advised(user: User) -> None:
    shutil.rmtree(user.directory / "one")
    write_checkpoint(user.directory / "one", fine_tuned(base_weights(), 1), shards=2)
    shutil.copy(user.directory / "base/config.json", user.directory / "one")
    index = user.directory / "one/model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"]["ghost.weight"] = next(iter(values["weight_map"].values()))
    index.write_text(json.dumps(values))
    code, said = user.merge()
    assert (code, "lists 1 tensor that no shard holds: ghost.weight" in said) == (2, True), said
    named = re.search(r"remove it from weight_map in (\S+);", said)
    assert named
    values = json.loads(Path(named[1]).read_text())
    del values["weight_map"]["ghost.weight"]
    Path(named[1]).write_text(json.dumps(values))
    assert user.merge()[0] == 0


def test_modules_whose_weights_no_merge_takes_are_told_loudly(user: User) -> None:
    modules = [{"idx": 0, "name": "0", "path": ""}, {"idx": 1, "name": "1", "path": "2_Dense"}]
    dense = user.directory / "base/2_Dense"
    dense.mkdir()
    (dense / "config.json").write_text("{}")
    save_file({"linear.weight": torch.ones(8, 16)}, dense / "model.safetensors")
    (user.directory / "base/modules.json").write_text(json.dumps(modules))
    code, said = user.merge()
    assert (code, "SentenceTransformer(result) fails" in said) == (0, True), said
    advised = re.search(r"cp (\S+) RESULT/(\S+)", said)
    assert advised
    shutil.copy(advised[1], user.directory / "out" / advised[2])
    assert set(load_file(user.directory / "out/2_Dense/model.safetensors")) == {"linear.weight"}


def test_rows_that_differ_are_resized_as_advised(user: User) -> None:
    path = user.directory / "one/model.safetensors"
    tensors = load_file(path)
    rows = {"model.embed_tokens.weight", "lm_head.weight"}
    wide = {name: torch.cat([it, it[:2]]) if name in rows else it for name, it in tensors.items()}
    save_file(wide, path)
    config = user.directory / "one/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": 34}))
    code, said = user.merge()
    assert code == 2
    assert "resize ./base to 34 rows first" in said
    assert "model.resize_token_embeddings(34)" in said
    save_file(
        {
            name: torch.cat([it, it[:2]]) if name in rows else it
            for name, it in load_file(user.directory / "base/model.safetensors").items()
        },
        user.directory / "base/model.safetensors",
    )
    shutil.copy(config, user.directory / "base")
    code, said = user.merge()
    assert code == 0, said


def test_an_adapter_of_another_base_is_told(user: User) -> None:
    from merge_core.checkpoints.sources import describe_adapter, open_source, with_adapter
    from merge_core.files.digests import DigestMemo
    from merge_core.verification.kinship import Subject
    from merge_core.verification.told_base import other_base
    from tests.support.tiny_llama import described

    factors = random_factors({"model.layers.0.self_attn.q_proj": (16, 16)}, 2)
    write_adapter(user.directory / "lora", factors, base_model_name_or_path="org/another")
    base = described(user.directory / "base").model_copy(update={"reference": "org/base"})
    adapter = describe_adapter("./lora", user.directory / "lora", DigestMemo(None))
    source = with_adapter("org/base+./lora", base, adapter)
    (found,) = other_base(Subject(source, open_source(source)))
    assert (found.severity, found.mend is not None) == ("warning", True)
    assert "was trained on org/another, and it is applied to org/base" in found.message
    local = with_adapter("./base+./lora", described(user.directory / "base"), adapter)
    (found,) = other_base(Subject(local, open_source(local)))
    assert found.severity == "info"
    write_adapter(user.directory / "fits", factors, base_model_name_or_path="org/base")
    fits = describe_adapter("./fits", user.directory / "fits", DigestMemo(None))
    named = with_adapter("org/base+./fits", base, fits)
    assert other_base(Subject(named, open_source(named))) == []


def test_a_config_that_an_editor_marked_is_saved_without_the_mark(user: User) -> None:
    path = user.directory / "one/config.json"
    text = path.read_text()
    path.write_text(text, encoding="utf-8-sig")
    code, said = user.merge()
    assert (code, "config.json begins with a byte order mark" in said) == (2, True), said
    path.write_text(text, encoding="utf-8")
    assert user.merge()[0] == 0
