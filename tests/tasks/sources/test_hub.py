"""Checkpoints from the Hub, with the real client against a small server on this machine."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from merge_core.errors import CheckpointError, CompatibilityError, OutputError
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.progress import ProgressEvent
from merge_core.store.vouching import departures
from tasks.hub_answers import HubUnreachableError
from tasks.sources.locate import fetch, fetch_all, locate, locate_all
from tasks.sources.location_keys import location_key
from tests.support.checkpoints import write_checkpoint
from tests.support.hub_server import Hub, serve_hub

COMMIT = "a" * 40


def tensors(rows: int = 640) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return {
        "model.embed_tokens.weight": torch.randn(rows, 512, generator=generator),
        "model.norm.weight": torch.ones(512),
    }


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with `org/base` and `org/tuned`, which fit, and `org/wide`, which does not."""
    shelf = tmp_path / "hub"
    write_checkpoint(shelf / "base", tensors(), shards=2)
    write_checkpoint(shelf / "tuned", tensors())
    write_checkpoint(shelf / "wide", tensors(rows=800))
    repositories = {f"org/{path.name}": path for path in shelf.iterdir()}
    with serve_hub(Hub(repositories)) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield served


def test_a_branch_becomes_the_commit_it_points_to_now(hub: Hub, home: Home) -> None:
    hub.branches["dev"] = "b" * 40
    assert locate("org/base", home).revision == COMMIT
    assert locate("org/base@dev", home).revision == "b" * 40
    assert locate("org/base@" + "b" * 40, home).revision == "b" * 40
    assert location_key(locate("org/base", home)) != location_key(locate("org/base@dev", home))


def test_a_repository_is_downloaded_and_known_by_content(hub: Hub, home: Home) -> None:
    (hub.repositories["org/base"] / "notes.pdf").write_bytes(b"not part of the model")
    events: list[ProgressEvent] = []
    source = fetch(locate("org/base", home), DigestMemo(None), events.append)
    assert source.revision == COMMIT
    assert source.directory.name == COMMIT
    assert not (source.directory / "notes.pdf").exists()
    local = fetch_all([str(hub.repositories["org/base"])], home)
    assert source.digest == next(iter(local.values())).digest
    assert departures(source, DigestMemo(None)) == []
    assert events[-1].done == events[-1].total


def test_settings_of_modules_and_code_are_downloaded_and_other_models_below_are_not(
    hub: Hub, home: Home
) -> None:
    repository = hub.repositories["org/base"]
    (repository / "modules.json").write_text('[{"path": ""}, {"path": "1_Pooling"}]')
    (repository / "modeling_own.py").write_text("class Own: ...")
    for name in ("1_Pooling/config.json", "onnx/config.json", "onnx/model.safetensors"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text("{}")
    source = fetch(locate("org/base", home), DigestMemo(None))
    got = {p.relative_to(source.directory).as_posix() for p in source.directory.rglob("*")}
    assert {"modules.json", "1_Pooling/config.json", "modeling_own.py"} < got
    assert not any(name.startswith("onnx") for name in got)
    assert {"modules.json", "1_Pooling/config.json"} < {file.name for file in source.files}
    assert departures(source, DigestMemo(None)) == []


def test_what_is_already_here_is_not_downloaded_again(hub: Hub, home: Home) -> None:
    fetch(locate("org/base", home), DigestMemo(None))
    sent = hub.weights_sent
    fetch(locate(f"org/base@{COMMIT}", home), DigestMemo(None))
    assert hub.weights_sent == sent


def test_misfits_are_refused_before_any_weight_is_downloaded(
    hub: Hub, home: Home, tmp_path: Path
) -> None:
    with pytest.raises(CompatibilityError, match="800 rows") as caught:
        locate_all(["org/base", "org/wide"], home)
    assert "org/wide" in str(caught.value)
    assert hub.weights_sent <= 3 * 100_001, "a header's worth of each of the three files"
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_local_checkpoint_is_compared_with_a_remote_one(
    hub: Hub, home: Home, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "mine", tensors(rows=800))
    with pytest.raises(CompatibilityError):
        locate_all(["org/base", "mine"], home, tmp_path)


def test_a_directory_wins_over_a_repository_of_the_same_name(
    hub: Hub, home: Home, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "org" / "base", tensors())
    assert locate("org/base", home).directory == str(tmp_path / "org" / "base")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("org/nothing", "no such repository"),
        ("org/base@nope", "no such branch, tag or commit"),
    ],
)
def test_unknown_names_are_explained(hub: Hub, home: Home, reference: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        locate(reference, home)


def test_a_repository_of_pickles_is_refused_with_what_to_do(
    hub: Hub, home: Home, tmp_path: Path
) -> None:
    pickled = tmp_path / "hub" / "pickled"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x02")
    (pickled / "config.json").write_text("{}")
    hub.repositories["org/pickled"] = pickled
    with pytest.raises(CheckpointError, match="pickle") as caught:
        locate("org/pickled", home)
    assert "save_pretrained" in str(caught.value)
    assert not any("resolve" in request for request in hub.requests)


def test_an_answer_of_unavailable_is_worth_another_try(hub: Hub, home: Home) -> None:
    hub.unavailable = 1000
    with pytest.raises(HubUnreachableError, match="does not answer"):
        locate("org/base", home)


def test_nobody_listening_is_worth_another_try(
    hub: Hub, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnreachableError):
        locate("org/base", home)


def test_content_other_than_the_published_digest_is_refused(hub: Hub, home: Home) -> None:
    location = locate("org/tuned", home)
    hub.tampered = True
    with pytest.raises(CheckpointError, match="not what the Hub published"):
        fetch(location, DigestMemo(None))


def test_a_disk_without_room_is_noticed_before_the_download(
    hub: Hub, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = locate("org/tuned", home)
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match="free"):
        fetch(location, DigestMemo(None))
    assert hub.weights_sent == 0


def test_offline_what_was_downloaded_is_used_and_nothing_is_asked(
    hub: Hub, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = fetch(locate("org/tuned", home), DigestMemo(None))
    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = fetch(locate("org/tuned", home), DigestMemo(None))
    assert offline.digest == online.digest
    assert offline.revision == COMMIT
    with pytest.raises(CheckpointError, match="switched off"):
        locate("org/wide", home)
    assert len(hub.requests) == asked


def test_a_token_is_sent_and_never_shown(
    hub: Hub, home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_the_test")
    caplog.set_level(logging.DEBUG)
    fetch(locate("org/tuned", home), DigestMemo(None))
    with pytest.raises(CheckpointError) as caught:
        locate("org/nothing", home)
    assert any("hf_secret" in token for token in hub.tokens)
    assert "hf_secret" not in caplog.text + str(caught.value)
