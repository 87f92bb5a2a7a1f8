"""Mends of checkpoints on the Hub, asked of a small one on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from safetensors.torch import save_file

from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from tasks.sources.locate import fetch, locate
from tests.field.mends.situations import (
    VERIFY,
    Situation,
    fine_tune,
    recipe,
    situations,
    tensors_of,
)
from tests.support.adapters import random_factors, write_adapter
from tests.support.checkpoints import write_checkpoint
from tests.support.followed_mends import Advice, Shell, Step
from tests.support.hub_server import Hub, serve_hub

pytestmark = pytest.mark.slow  # `make field`

SHELF: list[Hub] = []
"""The Hub of the test that runs."""


def got(here: Path, reference: str) -> str:
    """Find a checkpoint and download it; the digest of what came."""
    return fetch(locate(reference, Home(here / "home")), DigestMemo(None)).digest


def a_name_that_is_misspelt(here: Path) -> Iterator[Step]:
    yield (got, here, "org/tunde")
    yield (got, here, "org/tuned")


def a_directory_that_looks_like_a_repository(here: Path) -> Iterator[Step]:
    yield (got, here, "a/b")
    (here / "a/b").mkdir()
    shutil.copytree(here / "base", here / "a/b", dirs_exist_ok=True)
    yield (got, here, "./a/b")


def a_directory_whose_name_is_misspelt(here: Path) -> Iterator[Step]:
    shutil.copytree(here / "base", here / "runs/code")
    yield (got, here, "rusn/code")
    yield (got, here, "./runs/code")


def an_adapter_of_another_base(here: Path) -> Iterator[Step]:
    (hub,) = SHELF
    hub.repositories["org/another"] = hub.repositories["org/tuned"]
    factors = random_factors({"model.layers.0.mlp.up_proj": (8, 8)}, 2, scale=0.02)
    write_adapter(here / "lora", factors, base_model_name_or_path="org/another")
    recipe(here, models=[{"model": "org/tuned+./lora"}, {"model": "./b"}])
    yield VERIFY
    recipe(here, models=[{"model": "org/another+./lora"}, {"model": "./b"}])
    yield VERIFY


def a_repository_of_pickles(here: Path) -> Iterator[Step]:
    (hub,) = SHELF
    pickled = here / "hub/pickled"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x02")
    (pickled / "config.json").write_text("{}")
    hub.repositories["org/pickled"] = pickled
    yield (got, here, "org/pickled")
    hub.branches["safe"] = "b" * 40
    converted = here / "hub/converted"
    converted.mkdir()
    (converted / "config.json").write_text("{}")
    save_file(tensors_of(0), converted / "model.safetensors", metadata={"format": "pt"})
    hub.snapshots["b" * 40] = converted
    yield (got, here, "org/pickled@safe")


def other_bytes_than_were_published(here: Path) -> Iterator[Step]:
    (hub,) = SHELF
    hub.tampered = True
    yield (got, here, "org/tuned")
    hub.tampered = False
    (file,) = (here / "cache").rglob("snapshots/*/model.safetensors")
    file.resolve().unlink()
    file.unlink()
    yield (got, here, "org/tuned")


def a_hub_that_does_not_answer(here: Path) -> Iterator[Step]:
    (hub,) = SHELF
    hub.unavailable = 1000
    yield (got, here, "org/tuned")
    hub.unavailable = 0
    yield (got, here, "org/tuned")


def a_network_that_is_switched_off(here: Path) -> Iterator[Step]:
    constants.HF_HUB_OFFLINE = True
    yield (got, here, "org/tuned")
    constants.HF_HUB_OFFLINE = False
    yield (got, here, "org/tuned")


def a_shard_that_the_repository_lacks(here: Path) -> Iterator[Step]:
    (hub,) = SHELF
    write_checkpoint(here / "hub/sharded", tensors_of(0), shards=2)
    hub.repositories["org/sharded"] = here / "hub/sharded"
    shutil.copytree(here / "hub/sharded", here / "hub/earlier")
    (here / "hub/sharded/model-00002-of-00002.safetensors").unlink()
    hub.branches["earlier"] = "c" * 40
    hub.snapshots["c" * 40] = here / "hub/earlier"
    yield (got, here, "org/sharded")
    yield (got, here, "org/sharded@earlier")


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_hub(
    situation: Situation,
    here: Path,
    mergeflow: Shell,
    advice: Advice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_checkpoint(here / "hub/tuned", fine_tune(tensors_of(0), 1))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(here / "cache"))
    with serve_hub(Hub({"org/tuned": here / "hub/tuned"})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        SHELF[:] = [hub]
        advice.follow(mergeflow, situation(here))
