"""Files are hashed behind the workers: right in any order of finishing, never for ever."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from merge_core.errors import OutputError
from merge_core.plan import Plan, make_plan
from merge_core.progress import ProgressEvent
from merge_core.recipe import parse_recipe
from merge_core.shard_hashing import ShardHasher
from merge_core.timings import Timings
from tests.support.checkpoints import write_checkpoint


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    tensors = {f"layers.{n}.weight": torch.randn(3000 + n, 5) for n in range(30)}
    source = write_checkpoint(tmp_path / "one", tensors)
    recipe = parse_recipe({"merge_method": "linear", "models": [{"model": "one"}]})
    plan = make_plan(recipe, {"one": source}, shard_bytes=400_000)
    assert len(plan.shards) > 2
    return plan


@pytest.fixture
def directory(plan: Plan, tmp_path: Path) -> Path:
    """The plan's files in full length, still without their tensors."""
    place = tmp_path / "checkpoint"
    place.mkdir()
    for shard in plan.shards:
        (place / shard.name).write_bytes(shard.header + bytes(shard.nbytes - len(shard.header)))
    return place


def write_tensor(plan: Plan, directory: Path, index: int) -> None:
    slot = plan.tensors[index].slot
    with (directory / plan.shards[slot.shard].name).open("r+b") as file:
        file.seek(slot.offset)
        file.write(np.random.default_rng(index).bytes(slot.nbytes))


@pytest.mark.parametrize("threads", [1, 4])
def test_digests_are_those_of_the_complete_files(threads: int, plan: Plan, directory: Path) -> None:
    order = np.random.default_rng(0).permutation(len(plan.tensors)).tolist()
    early, late = order[:10], order[10:]
    for index in early:
        write_tensor(plan, directory, index)
    with ShardHasher(plan, directory, threads, Timings()) as hasher:
        hasher.finished(early)

        def work(mine: list[int]) -> None:
            for index in mine:
                write_tensor(plan, directory, index)
                hasher.finished([index])

        workers = [threading.Thread(target=work, args=(late[n::3],)) for n in range(3)]
        for worker in workers:
            worker.start()
        digests = hasher.digests()
    for shard in plan.shards:
        expected = hashlib.sha256((directory / shard.name).read_bytes()).hexdigest()
        assert digests[shard.name] == expected


def test_most_is_hashed_before_the_last_tensor_is_written(plan: Plan, directory: Path) -> None:
    reports: list[ProgressEvent] = []
    last = len(plan.tensors) - 1
    with ShardHasher(plan, directory, 2, Timings()) as hasher:
        hasher.finished(range(last))
        until = time.monotonic() + 20
        expected = sum(shard.nbytes for shard in plan.shards) - plan.tensors[last].slot.nbytes
        while hasher.hashed < expected and time.monotonic() < until:
            time.sleep(0.01)
        assert hasher.hashed == expected
        hasher.finished([last])
        hasher.digests(reports.append)
    assert reports[-1].done == reports[-1].total


def test_a_file_that_becomes_shorter_is_an_error(plan: Plan, directory: Path) -> None:
    with (directory / plan.shards[1].name).open("r+b") as file:
        file.truncate(1000)
    with ShardHasher(plan, directory, 2, Timings()) as hasher:
        hasher.finished(range(len(plan.tensors)))
        with pytest.raises(OutputError, match="shorter"):
            hasher.digests()


def test_a_merge_that_fails_does_not_wait_for_its_hashes(plan: Plan, directory: Path) -> None:
    started = time.monotonic()
    with ShardHasher(plan, directory, 2, Timings()) as hasher:
        hasher.finished([0])
    assert time.monotonic() - started < 20
