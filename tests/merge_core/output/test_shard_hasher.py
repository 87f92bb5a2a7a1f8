"""Files are hashed behind the workers: right in any order of finishing, never for ever."""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from merge_core.errors import OutputError
from merge_core.output import shard_hasher
from merge_core.output.shard_hasher import ShardHasher
from merge_core.planning.plan import Plan, make_plan
from merge_core.progress import ProgressEvent
from merge_core.recipes.loading import parse_recipe
from merge_core.runtime.processors import processors
from merge_core.runtime.timings import Timings
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


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


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


def test_parts_of_tensors_are_hashed_in_whatever_order_they_are_written(
    plan: Plan, directory: Path
) -> None:
    parts = []
    for index, tensor in enumerate(plan.tensors):
        write_tensor(plan, directory, index)
        cuts = [0, 7, tensor.slot.numel // 2, tensor.slot.numel]
        parts += [(index, *ends) for ends in itertools.pairwise(cuts)]
    first = plan.shards[0]
    with ShardHasher(plan, directory, 1, Timings()) as hasher:
        hasher.written(*parts.pop(0))
        wait_until(lambda: hasher.hashed == len(first.header) + 7 * 4)
        random.Random(0).shuffle(parts)
        for part in parts:
            hasher.written(*part)
        hasher.finished([0, 3])  # once more, as a whole
        digests = hasher.digests()
    for shard in plan.shards:
        content = (directory / shard.name).read_bytes()
        assert digests[shard.name] == hashlib.sha256(content).hexdigest()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Nothing is hashed until this is set; a file is behind with far fewer bytes than else."""
    opened = threading.Event()

    def sha256() -> object:
        assert opened.wait(20)
        return hashlib.sha256()

    monkeypatch.setattr(shard_hasher, "hashlib", SimpleNamespace(sha256=sha256))
    monkeypatch.setattr(shard_hasher, "_BEHIND", 100_000)
    yield opened
    opened.set()


def pacing(hasher: ShardHasher, workers: int) -> list[int]:
    """Which of as many threads that pace themselves went on so far."""
    went_on: list[int] = []

    def work(number: int) -> None:
        hasher.pace(workers, lambda: False)
        went_on.append(number)

    for number in range(workers):
        threading.Thread(target=work, args=(number,)).start()
    return went_on


def test_workers_leave_their_processors_to_hashing_that_is_behind(
    gate: threading.Event, plan: Plan, directory: Path
) -> None:
    workers, timings = processors() + 2, Timings()
    with ShardHasher(plan, directory, 2, timings) as hasher:
        hasher.finished(range(len(plan.tensors)))
        went_on = pacing(hasher, workers)
        wait_until(lambda: len(went_on) == workers - 2)
        time.sleep(0.3)
        assert len(went_on) == workers - 2, "only two of all files are being hashed"
        gate.set()
        wait_until(lambda: len(went_on) == workers)
        hasher.digests()
    assert timings.seconds("wait") > 0.5


def test_one_worker_always_goes_on(gate: threading.Event, plan: Plan, directory: Path) -> None:
    with ShardHasher(plan, directory, 4, Timings()) as hasher:
        hasher.finished(range(len(plan.tensors)))
        hasher.pace(1, lambda: False)
        gate.set()


def test_nobody_waits_where_processors_are_free(
    gate: threading.Event, plan: Plan, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_hasher, "processors", lambda: 5)
    with ShardHasher(plan, directory, 2, Timings()) as hasher:
        hasher.finished(range(len(plan.tensors)))
        went_on = pacing(hasher, 3)
        wait_until(lambda: len(went_on) == 3)
        gate.set()


def test_nobody_waits_for_hashes_when_no_work_is_left(
    gate: threading.Event, plan: Plan, directory: Path
) -> None:
    over = threading.Event()
    workers = processors() + 1
    with ShardHasher(plan, directory, 1, Timings()) as hasher:
        hasher.finished(range(len(plan.tensors)))
        thread = threading.Thread(target=hasher.pace, args=(workers, over.is_set))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        over.set()
        thread.join(20)
        assert not thread.is_alive()
        gate.set()


def work_for_ever(hasher: ShardHasher, workers: int) -> None:
    while True:
        hasher.pace(workers, lambda: False)


def test_workers_learn_that_a_file_cannot_be_read_back(
    gate: threading.Event, plan: Plan, directory: Path
) -> None:
    workers = processors() + 1
    with ShardHasher(plan, directory, 1, Timings()) as hasher:
        with (directory / plan.shards[0].name).open("r+b") as file:
            file.truncate(10)
        hasher.finished(range(len(plan.tensors)))
        threading.Timer(0.3, gate.set).start()
        with pytest.raises(OutputError, match="shorter"):
            work_for_ever(hasher, workers)


def test_most_is_hashed_before_the_last_tensor_is_written(plan: Plan, directory: Path) -> None:
    reports: list[ProgressEvent] = []
    last = len(plan.tensors) - 1
    with ShardHasher(plan, directory, 2, Timings()) as hasher:
        hasher.finished(range(last))
        expected = sum(shard.nbytes for shard in plan.shards) - plan.tensors[last].slot.nbytes
        wait_until(lambda: hasher.hashed == expected)
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
