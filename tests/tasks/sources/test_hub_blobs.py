"""Files in the Hub's cache are held against the hashes that are their names, offline too."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from merge_core.errors import CheckpointError
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from tasks.sources.locate import fetch, locate
from tests.support.checkpoints import write_checkpoint
from tests.support.edited_objects import flip
from tests.support.hub_server import Hub, serve_hub


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Home) -> Path:
    """Where `org/base` was downloaded to, when the Hub is out of reach."""
    write_checkpoint(tmp_path / "base", {"model.norm.weight": torch.ones(512)})
    with serve_hub(Hub({"org/base": tmp_path / "base"})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        directory = fetch(locate("org/base", home), DigestMemo(None)).directory
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return directory


def spaced(snapshot: Path) -> None:
    """A config that means the same, in other bytes, under the name of the first."""
    blob = (snapshot / "config.json").resolve()
    blob.write_bytes(blob.read_bytes() + b" ")


def replaced(snapshot: Path) -> None:
    """A file of somebody's in place of the link."""
    content = (snapshot / "config.json").read_bytes()
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").write_bytes(content)


def elsewhere(snapshot: Path) -> None:
    """A link to another file that was downloaded."""
    other = (snapshot / "config.json").resolve().with_name("0" * 40)
    other.write_text((snapshot / "config.json").read_text())
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(other)


TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of the weights": (lambda at: flip(at / "model.safetensors"), "model.safetensors"),
    "a small file": (spaced, "config.json .* not that of [0-9a-f]{40}"),
    "a file in place of a link": (replaced, "config.json .* no link to a blob"),
    "a blob by another name": (elsewhere, "config.json .* not that of 0{40}"),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_a_cache_that_was_edited_is_refused_without_the_hub(
    snapshot: Path, home: Home, kind: str
) -> None:
    tamper, said = TAMPERED[kind]
    for reference in ("org/base", str(snapshot)):
        assert fetch(locate(reference, home), DigestMemo(None)).digest
    tamper(snapshot)
    for reference in ("org/base", str(snapshot)):
        with pytest.raises(CheckpointError, match=said) as caught:
            fetch(locate(reference, home), DigestMemo(None))
        assert "and its blob, and run again" in str(caught.value)


def test_what_says_nothing_of_its_content_is_taken(snapshot: Path, home: Home) -> None:
    """Caches without links, names of other kinds, sha1 as some mirrors give it, and copies."""
    copy = snapshot.parents[3] / "copy"
    shutil.copytree(snapshot, copy)
    spaced(copy)
    assert fetch(locate(str(copy), home), DigestMemo(None)).digest
    for name in (hashlib.sha1((snapshot / "config.json").read_bytes()).hexdigest(), "W-weak"):
        blob = (snapshot / "config.json").resolve()
        renamed = blob.rename(blob.with_name(name))
        (snapshot / "config.json").unlink()
        (snapshot / "config.json").symlink_to(renamed)
        assert fetch(locate("org/base", home), DigestMemo(None)).digest
    for path in list(snapshot.iterdir()):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    assert fetch(locate("org/base", home), DigestMemo(None)).digest
