"""BASE+ADAPTER with the adapter, or both, on the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from merge_core.checkpoints.sources import open_source
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.store.vouching import departures
from tasks.sources.locate import fetch, fetch_adapters, fetch_all, locate
from tasks.sources.location_keys import location_key
from tests.support.adapters import random_factors, write_adapter
from tests.support.checkpoints import write_checkpoint
from tests.support.hub_server import Hub, serve_hub

COMMIT = "a" * 40
Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with `org/base` and its adapter `org/lora`."""
    shelf = tmp_path / "hub"
    write_checkpoint(shelf / "base", {f"{Q}.weight": torch.randn(12, 8)})
    write_adapter(shelf / "lora", random_factors({Q: (12, 8)}, 2))
    (shelf / "lora" / "README.md").write_text("a card")
    repositories = {f"org/{path.name}": path for path in shelf.iterdir()}
    with serve_hub(Hub(repositories)) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield served


def test_both_are_downloaded_and_known_by_content(hub: Hub, home: Home) -> None:
    hub.branches["v2"] = "b" * 40
    location = locate("org/base@v2+org/lora", home)
    assert location.is_remote
    source = fetch(location, DigestMemo(None))
    assert source.adapter is not None
    assert (source.revision, source.adapter.revision) == ("b" * 40, COMMIT)
    assert len(open_source(source).tensors) == 1
    local = "+".join(str(hub.repositories[name]) for name in ("org/base", "org/lora"))
    assert source.digest == fetch_all([local], home)[local].digest
    assert departures(source, DigestMemo(None)) == []


def test_an_adapter_from_the_hub_goes_on_a_base_on_this_disk(hub: Hub, home: Home) -> None:
    base = hub.repositories["org/base"]
    location = locate(f"{base}+org/lora", home)
    assert location.is_remote
    assert location.listing is None
    assert location_key(location) != location_key(locate(str(base), home))
    assert fetch(location, DigestMemo(None)).path == str(base)


def test_adapters_to_merge_come_from_the_hub_too(hub: Hub, home: Home) -> None:
    adapter = fetch_adapters(["org/lora"], home)["org/lora"]
    assert adapter.revision == COMMIT
    assert [file.name for file in adapter.files] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
