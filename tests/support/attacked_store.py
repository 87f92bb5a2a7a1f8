"""Fixtures of attacks on the store: tiny checkpoints, and merges of them in a home of their own.

A test module takes them by `pytest_plugins = ["tests.support.attacked_store"]`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from merge_core.homes.home import Home
from merge_core.operations.execute import execute
from merge_core.planning.plan import Plan, make_plan
from merge_core.recipes.loading import parse_recipe
from merge_core.records import CheckpointManifest, SourceCheckpoint
from merge_core.runtime.compute import Compute
from tests.support.checkpoints import write_checkpoint
from tests.support.edited_objects import contents


@dataclass
class Merges:
    """A store with the merges of two checkpoints in it, in shards."""

    home: Home
    zoo: Mapping[str, SourceCheckpoint]

    def plan(self, weight: float = 0.5) -> Plan:
        """The plan of a merge in which `a` has this weight."""
        models = [
            {"model": name, "parameters": {"weight": each}}
            for name, each in (("a", weight), ("b", 0.5))
        ]
        recipe = parse_recipe({"merge_method": "linear", "models": models})
        return make_plan(recipe, self.zoo, shard_bytes=1000)

    def merge(self, weight: float = 0.5, **options: object) -> CheckpointManifest:
        """Do the merge, or find it."""
        return execute(
            self.plan(weight), self.zoo, home=self.home, compute=Compute(threads=1), **options
        )  # type: ignore[arg-type]

    def place(self, manifest: CheckpointManifest) -> Path:
        """Where an object is."""
        return self.home.objects / manifest.object_id


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SourceCheckpoint]:
    """Two checkpoints of a few tensors."""
    root, zoo = tmp_path_factory.mktemp("zoo"), {}
    for seed, name in enumerate("ab"):
        generator = torch.Generator().manual_seed(seed)
        tensors = {f"layers.{i}.weight": torch.randn(200, generator=generator) for i in range(4)}
        zoo[name] = write_checkpoint(root / name, tensors)
    return zoo


@pytest.fixture(scope="session")
def filled(
    zoo: dict[str, SourceCheckpoint], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, CheckpointManifest, CheckpointManifest]:
    """A home with two merges, and their manifests."""
    merges = Merges(Home(tmp_path_factory.mktemp("filled") / "home"), zoo)
    return merges.home.path, merges.merge(), merges.merge(0.7)


@pytest.fixture
def merges(
    filled: tuple[Path, CheckpointManifest, CheckpointManifest],
    zoo: dict[str, SourceCheckpoint],
    tmp_path: Path,
) -> Merges:
    """A copy of the filled home, to be attacked."""
    shutil.copytree(filled[0], tmp_path / "home")
    return Merges(Home(tmp_path / "home"), zoo)


@pytest.fixture
def first(
    filled: tuple[Path, CheckpointManifest, CheckpointManifest], merges: Merges
) -> CheckpointManifest:
    """The merge that is attacked, in the copy."""
    return filled[1].model_copy(update={"path": str(merges.place(filled[1]))})


@pytest.fixture
def other(
    filled: tuple[Path, CheckpointManifest, CheckpointManifest], merges: Merges
) -> CheckpointManifest:
    """The other merge in the same store."""
    return filled[2].model_copy(update={"path": str(merges.place(filled[2]))})


@pytest.fixture(scope="session")
def sound(filled: tuple[Path, CheckpointManifest, CheckpointManifest]) -> dict[str, str]:
    """What the files of the merge that is attacked are."""
    return contents(Path(filled[1].path))


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What people are told."""
    caplog.set_level(logging.WARNING, "mergeflow")
    return caplog
