"""A merge for tests of scale-out: enough tensors to be killed in the middle of, small enough."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from prefect import flow

from flows.settings.pipeline import Pipeline
from flows.steps import merge as merge_steps
from merge_core.distributed.job import Executor, MergeJob
from merge_core.homes.home import Home
from merge_core.operations.merge import merge
from merge_core.recipes.loading import parse_recipe
from merge_core.records import CheckpointManifest, SourceCheckpoint
from merge_core.runtime.compute import Compute
from tests.support.checkpoints import write_checkpoint

TENSORS = 48
ELEMENTS = 60_000
SHARD_BYTES = 1_500_000
"""Of the result: four shards."""


def recipe(base: str, models: list[str], scope: str = "global") -> dict[str, Any]:
    """TIES; with the scope global there are model statistics, which the workers are given."""
    return {
        "merge_method": "ties",
        "base_model": base,
        "models": [{"model": model} for model in models],
        "parameters": {"weight": 0.5, "density": 0.3, "scope": scope},
    }


def write_zoo(root: Path, broken: bool = False) -> dict[str, SourceCheckpoint]:
    """A base and two fine-tunes, by their paths; a broken zoo holds NaN."""
    zoo = {}
    for seed, name in enumerate(("base", "a", "b")):
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            f"layers.{index}.weight": torch.randn(ELEMENTS, generator=generator).to(torch.bfloat16)
            for index in range(TENSORS)
        }
        if broken:
            tensors["layers.7.weight"][5] = float("nan")
        source = write_checkpoint(root / name, tensors)
        zoo[source.path] = source.model_copy(update={"reference": source.path})
    return zoo


def run_merge(
    zoo: dict[str, SourceCheckpoint],
    out: Path,
    executor: Executor | None = None,
    scope: str = "global",
) -> CheckpointManifest:
    """Merge a zoo of `write_zoo` on the CPU."""
    base, *models = zoo
    return merge(
        parse_recipe(recipe(base, models, scope)),
        zoo,
        home=Home(out.parent / "home"),
        out=out,
        compute=Compute("cpu", threads=1),
        shard_bytes=SHARD_BYTES,
        check=False,
        executor=executor,
    )


def merge_as_configured(
    zoo: dict[str, SourceCheckpoint], home: Home, scale_out: dict[str, Any]
) -> CheckpointManifest:
    """The merge of `run_merge` as the merge step of a pipeline, into the store."""
    base, *models = zoo
    values = {
        "name": "scale-out",
        "recipe": recipe(base, models),
        "evaluate": {"suite": "starter"},
        "execution": {
            "device": "cpu",
            "threads": 1,
            "shard_size": str(SHARD_BYTES),
            "scale_out": scale_out,
        },
    }

    @flow(name="merge-step")
    def merge_step() -> CheckpointManifest:
        return merge_steps.merge(Pipeline.model_validate(values), zoo, home)

    manifest: CheckpointManifest = merge_step()
    return manifest


def sums(directory: Path) -> dict[str, str]:
    """sha256 of every file below a directory, by its name."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


class Observed(Executor):
    """Another executor whose journals are looked at when it is done, before they are removed."""

    def __init__(self, inner: Executor) -> None:
        self._inner = inner
        self.workers, self.whole_shards = inner.workers, inner.whole_shards
        self.job: MergeJob | None = None
        self.noted: dict[str, list[int]] = {}
        """Tensors by journal."""

    def run(self, directory: Path, job: MergeJob) -> None:
        try:
            self._inner.run(directory, job)
        finally:
            self.job, self.noted = job, journals(directory)


class Killer(threading.Thread):
    """Kills a worker of a merge half-way: when it has finished some tensors of a group, not all."""

    def __init__(self, place: Path, kill: Callable[[int], None]) -> None:
        """`place`: below which the working directory will be; `kill` is given a process's id."""
        super().__init__(daemon=True)
        self._place = place
        self._kill = kill
        self.killed_in: str | None = None
        """The journal of the killed worker."""

    def run(self) -> None:
        deadline = time.monotonic() + 240
        while self.killed_in is None and time.monotonic() < deadline:
            for path in self._place.glob("**/groups/*/*.journal"):
                lines = path.read_text().splitlines()
                if 2 <= len(lines) - 1 <= 3:
                    self._kill(int(json.loads(lines[0])["pid"]))
                    self.killed_in = path.name
                    return
            time.sleep(0.001)


def kill_process(pid: int) -> None:
    """SIGKILL, as the system does when memory is short."""
    os.kill(pid, signal.SIGKILL)


def journals(directory: Path) -> dict[str, list[int]]:
    """Tensors that each worker's journal in a working directory names."""
    return {
        path.name: [int(line) for line in path.read_text().splitlines()[1:] if line.isdecimal()]
        for path in directory.glob("groups/*/*.journal")
    }


def check_little_was_redone(observed: Observed, killed_in: str | None) -> None:
    """A killed worker's group was finished by another, which left alone what was in place."""
    assert observed.job is not None
    assert killed_in is not None, "nothing was killed half-way: the test shows nothing"
    everything = sorted(index for indices in observed.noted.values() for index in indices)
    assert everything == list(range(TENSORS)), "a finished tensor was computed again, or left out"
    number = int(killed_in.partition("-")[0])
    before = set(observed.noted[killed_in])
    group = set(observed.job.groups[number].tensors)
    assert before
    assert before < group
    heirs = [
        set(indices)
        for name, indices in observed.noted.items()
        if name.startswith(f"{number}-") and name != killed_in and indices
    ]
    assert heirs == [group - before]
