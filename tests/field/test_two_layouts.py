"""Repositories and directories with weights in a second layout, or with leftovers: the index says
what the model is, and nothing else of it is compared, downloaded or hashed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from flows.cli import program
from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.checkpoints.sources import describe_source, former_digest, hash_files, model_files
from merge_core.errors import CheckpointError
from merge_core.files.digests import DigestMemo, model_digest
from merge_core.homes.home import Home
from merge_core.records import FileDigest
from merge_core.verification.verify import verify
from tasks.sources.locate import Location, fetch, fetch_all
from tests.support.checkpoints import write_checkpoint
from tests.support.hub_server import Hub, serve_hub
from tests.support.tiny_llama import base_weights, fine_tuned

OWN = "consolidated.safetensors"


def write_pair(root: Path) -> None:
    base = base_weights()
    write_checkpoint(root / "base", base, shards=2)
    write_checkpoint(root / "one", fine_tuned(base, 1), shards=3)


def add_second_layout(directory: Path) -> None:
    """The same weights under the names of their maker's own code, as one file and as shards."""
    tensors = {f"own.{index}": torch.ones(2, 2) for index in range(3)}
    save_file(tensors, directory / OWN)
    save_file(tensors, directory / "consolidated-00001-of-00001.safetensors")
    weight_map = dict.fromkeys(tensors, "consolidated-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "consolidated.safetensors.index.json").write_text(json.dumps(index))


def add_leftovers(directory: Path) -> None:
    """The shards of an earlier upload, numbered in another way, and one of a set of four."""
    for path in list(directory.glob("model-*-of-*.safetensors")):
        number, total = path.stem.removeprefix("model-").split("-of-")
        shutil.copy(path, directory / f"model-{number}-of-{int(total):06}.safetensors")
    save_file({"old": torch.ones(3)}, directory / "model-00004-of-00004.safetensors")


ADDITIONS = {"a second layout": add_second_layout, "leftovers": add_leftovers}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    write_pair(tmp_path / "hub")
    repositories = {f"org/{path.name}": path for path in (tmp_path / "hub").iterdir()}
    with serve_hub(Hub(repositories)) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield served


@pytest.mark.parametrize("addition", sorted(ADDITIONS))
def test_what_the_index_does_not_name_is_no_part_of_the_model(
    tmp_path: Path, addition: str
) -> None:
    write_pair(tmp_path)
    before = describe_source("base", tmp_path / "base", DigestMemo(None))
    one = describe_source("one", tmp_path / "one", DigestMemo(None))
    clean = verify(before, [one], scan_weights=False)
    ADDITIONS[addition](tmp_path / "base")
    after = describe_source("base", tmp_path / "base", DigestMemo(None))
    assert after == before
    report = verify(after, [one], scan_weights=False)
    assert report.ok
    codes = {each.code for each in report.findings} - {each.code for each in clean.findings}
    assert codes == ({"weights-left-over"} if addition == "leftovers" else set())


@pytest.mark.parametrize("addition", sorted(ADDITIONS))
def test_from_the_hub_nothing_else_is_asked_for(hub: Hub, home: Home, addition: str) -> None:
    directory = hub.repositories["org/base"]
    named = {path.name for path in directory.glob("*.safetensors")}
    ADDITIONS[addition](directory)
    recipe = "merge_method: linear\nmodels: [{model: org/base}, {model: org/one}]\n"
    Path("recipe.yaml").write_text(recipe)
    assert program.run(["merge", "recipe.yaml", "out", "--threads", "1"]) == 0
    asked = {
        request.rpartition("/")[2]
        for request in hub.requests
        if "org/base/resolve" in request and request.endswith(".safetensors")
    }
    assert asked == named
    Path("local.yaml").write_text(recipe.replace("org/", "./hub/"))
    assert program.run(["merge", "local.yaml", "out-local", "--threads", "1"]) == 0
    assert load_file("out/model.safetensors").keys() == base_weights().keys()
    weights = [Path(out, "model.safetensors").read_bytes() for out in ("out", "out-local")]
    assert weights[0] == weights[1]


def test_an_adapter_beside_full_weights_is_fetched_without_them(hub: Hub, home: Home) -> None:
    directory = hub.repositories["org/one"]
    save_file({"x": torch.ones(1)}, directory / "adapter_model.safetensors")
    from tasks.sources.hub import list_repository
    from tasks.sources.references import HubReference

    reference = HubReference("org/one", None)
    assert list_repository(reference, is_adapter=True).shards == ["adapter_model.safetensors"]
    assert "adapter_model.safetensors" not in list_repository(reference).shards


def test_an_index_that_lost_a_shard_of_its_set_is_refused_here_and_before_a_download(
    hub: Hub, home: Home
) -> None:
    directory = hub.repositories["org/base"]
    index = directory / "model.safetensors.index.json"
    content = json.loads(index.read_bytes())
    first = "model-00001-of-00002.safetensors"
    content["weight_map"] = {k: v for k, v in content["weight_map"].items() if v == first}
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="is not named by"):
        open_checkpoint(directory)
    with pytest.raises(CheckpointError, match="is not named by") as caught:
        fetch_all(["org/base", "org/one"], home)
    assert "name that directory" in str(caught.value)
    assert not list(Path("cache").rglob("*.safetensors"))


def test_a_whole_file_beside_an_index_is_refused_since_two_readers_would_differ(
    hub: Hub, home: Home
) -> None:
    directory = hub.repositories["org/base"]
    save_file(base_weights(seed=5), directory / "model.safetensors")
    for fetched in (lambda: open_checkpoint(directory), lambda: fetch_all(["org/base"], home)):
        with pytest.raises(CheckpointError, match="reads it in place of"):
            fetched()
    (directory / "model.safetensors").unlink()  # what the mend says
    files = {Path(entry.path).name for entry in open_checkpoint(directory).tensors.values()}
    assert files == {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}


def test_a_shard_that_the_repository_lacks_is_named_before_a_download(hub: Hub, home: Home) -> None:
    (hub.repositories["org/base"] / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lacks model-00002-of-00002"):
        fetch_all(["org/base"], home)
    assert not list(Path("cache").rglob("*.safetensors"))


def test_a_digest_from_before_still_names_a_directory_with_a_second_layout(
    tmp_path: Path,
) -> None:
    write_pair(tmp_path)
    add_second_layout(tmp_path / "base")
    memo = DigestMemo(None)
    source = describe_source("base", tmp_path / "base", memo)
    weights = [*tmp_path.glob("base/*.safetensors"), *tmp_path.glob("base/*.index.json")]
    others = [path for path in model_files(tmp_path / "base") if path not in weights]
    files: tuple[FileDigest, ...] = hash_files(tmp_path / "base", [*weights, *others], memo, "hash")
    registered = model_digest(files)
    assert registered != source.digest
    assert former_digest(source, memo) == registered
    location = Location(reference="base", directory=source.path, digest=registered)
    assert fetch(location, memo).digest == source.digest
    with pytest.raises(CheckpointError, match="not the registered ones") as refused:
        fetch(location.model_copy(update={"digest": "0" * 64}), memo)
    assert refused.value.mend == "merge and register again, or name another version"
    another = location.model_copy(update={"digest": source.digest})
    assert fetch(another, memo).digest == source.digest
