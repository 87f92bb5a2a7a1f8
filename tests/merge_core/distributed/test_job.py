"""Groups of a merge: how a plan is cut, and what a worker does and refuses to do."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from merge_core.distributed import worker
from merge_core.distributed.job import Executor, MergeJob, cut_into_groups, read_job, write_job
from merge_core.distributed.worker import merge_group
from merge_core.errors import (
    CheckpointError,
    MergeflowError,
    NonFiniteError,
    RecipeError,
    StepError,
    error_from,
    error_values,
)
from merge_core.homes.home import Home
from merge_core.operations.merge import merge
from merge_core.output import journal
from merge_core.output.working_directory import GROUPS, JOB
from merge_core.planning.plan import Plan, make_plan
from merge_core.recipes.loading import parse_recipe
from merge_core.records import CheckpointManifest, SourceCheckpoint
from merge_core.runtime.compute import Compute
from tests.support.checkpoints import write_checkpoint
from tests.support.scale_out_cases import sums

SHARD_BYTES = 4_000


class Here(Executor):
    """Does what it is given with each group of a job, in this process, the last group first."""

    whole_shards = False

    def __init__(self, work: Callable[[Path, MergeJob, int], object], workers: int = 2) -> None:
        self.workers = workers
        self._work = work
        self.groups = 0

    def run(self, directory: Path, job: MergeJob) -> None:
        self.groups = len(job.groups)
        for number in reversed(range(self.groups)):
            self._work(directory, job, number)


def work(directory: Path, job: MergeJob, number: int) -> object:
    return merge_group(directory, job.attempt, number)


@pytest.fixture
def zoo(tmp_path: Path) -> dict[str, SourceCheckpoint]:
    zoo = {}
    for seed, name in enumerate(("base", "a", "b")):
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            f"layers.{index}.weight": torch.randn(7, 50 + index, generator=generator)
            for index in range(12)
        }
        zoo[name] = write_checkpoint(tmp_path / "zoo" / name, tensors)
    return zoo


def run(
    zoo: dict[str, SourceCheckpoint], out: Path, executor: Executor | None, scope: str = "global"
) -> CheckpointManifest:
    recipe = {
        "merge_method": "ties",
        "base_model": "base",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": {"weight": 0.5, "density": 0.3, "scope": scope},
    }
    return merge(
        parse_recipe(recipe),
        zoo,
        home=Home(out.parent / "home"),
        out=out,
        compute=Compute("cpu"),
        shard_bytes=SHARD_BYTES,
        check=False,
        executor=executor,
    )


def plan_of(zoo: dict[str, SourceCheckpoint]) -> Plan:
    linear = {"merge_method": "linear", "models": [{"model": "a"}, {"model": "b"}]}
    return make_plan(parse_recipe(linear), zoo, shard_bytes=SHARD_BYTES)


@pytest.mark.parametrize("whole_shards", [False, True])
@pytest.mark.parametrize("count", [1, 2, 5, 12, 1000])
def test_groups_cover_a_plan_once_in_order_and_alike(
    zoo: dict[str, SourceCheckpoint], count: int, whole_shards: bool
) -> None:
    plan = plan_of(zoo)
    groups = cut_into_groups(plan, count, whole_shards=whole_shards)
    assert [index for group in groups for index in group.tensors] == list(range(12))
    assert len(groups) <= count
    assert sum(group.nbytes for group in groups) == sum(t.slot.nbytes for t in plan.tensors)
    if whole_shards:
        shard = [plan.tensors[group.first].slot.shard for group in groups]
        assert all(
            plan.tensors[left.end - 1].slot.shard < plan.tensors[right.first].slot.shard
            for left, right in pairwise(groups)
        )
        assert len(set(shard)) == len(groups)
    elif count <= 5:
        assert len(groups) == count
        assert max(group.nbytes for group in groups) < 2 * min(group.nbytes for group in groups)


@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("workers", [1, 3])
def test_groups_in_any_order_and_more_than_once_give_the_same_bytes(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path, scope: str, workers: int
) -> None:
    run(zoo, tmp_path / "alone", None, scope)
    computed = []

    def twice(directory: Path, job: MergeJob, number: int) -> None:
        for _ in range(2):
            result = merge_group(directory, job.attempt, number)
            assert result is not None
            computed.append(result.computed)

    here = Here(twice, workers)
    run(zoo, tmp_path / "together", here, scope)
    assert sums(tmp_path / "together") == sums(tmp_path / "alone")
    assert here.groups == min(12, 4 * workers)
    assert sum(computed[0::2]) == 12
    assert set(computed[1::2]) == {0}


def test_a_group_that_nobody_did_is_noticed_and_what_was_done_is_kept(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    def all_but_one(directory: Path, job: MergeJob, number: int) -> None:
        if number != 2:
            merge_group(directory, job.attempt, number)

    with pytest.raises(StepError, match="are not in place"):
        run(zoo, tmp_path / "out", Here(all_but_one))
    assert not (tmp_path / "out").exists()
    done: list[int] = []

    def watched(directory: Path, job: MergeJob, number: int) -> None:
        result = merge_group(directory, job.attempt, number)
        assert result is not None
        done.append(result.computed)

    run(zoo, tmp_path / "out", Here(watched))
    run(zoo, tmp_path / "alone", None)
    assert sums(tmp_path / "out") == sums(tmp_path / "alone")
    assert sum(done) in (1, 2)


def test_what_a_dead_worker_on_another_machine_did_not_sync_is_vouched_for_by_its_heir(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(zoo, tmp_path / "alone", None)
    computed = []

    def on_another_machine(directory: Path, job: MergeJob, number: int) -> None:
        with monkeypatch.context() as patch:
            for module in (journal, worker):
                patch.setattr(module, "boot_id", lambda: "another machine")
            merge_group(directory, job.attempt, number)
            (left,) = (directory / GROUPS / job.attempt).glob(f"{number}-*.journal")
            left.write_text(left.read_text().replace("sync\n", ""))
            assert worker.is_finished(directory, job, number)
        assert not worker.is_finished(directory, job, number)
        with monkeypatch.context() as patch:
            for module in (journal, worker):
                patch.setattr(module, "boot_id", lambda: "another machine")
            result = merge_group(directory, job.attempt, number)
            assert result is not None
            computed.append(result.computed)
        assert worker.is_finished(directory, job, number)

    run(zoo, tmp_path / "out", Here(on_another_machine))
    assert set(computed) == {0}
    assert sums(tmp_path / "out") == sums(tmp_path / "alone")


def test_a_worker_that_does_not_see_the_storage_says_so(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    def elsewhere(directory: Path, job: MergeJob, number: int) -> None:
        merge_group(tmp_path / "not-mounted", job.attempt, number)

    with pytest.raises(StepError, match=r"is not to be seen from .*\n.*MERGEFLOW_HOME"):
        run(zoo, tmp_path / "out", Here(elsewhere))


def test_a_worker_of_another_attempt_does_not_touch_the_files(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    def late(directory: Path, job: MergeJob, number: int) -> None:
        merge_group(directory, "0123456789abcdef", number)

    with pytest.raises(StepError, match="came too late"):
        run(zoo, tmp_path / "out", Here(late))


def test_a_worker_with_another_version_of_a_library_refuses(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_torch(directory: Path, job: MergeJob, number: int) -> None:
        versions = job.versions | {"torch": "1.13.1"}
        write_job(directory, job.model_copy(update={"versions": versions}))
        worker._joined.cache_clear()
        merge_group(directory, job.attempt, number)

    with pytest.raises(StepError, match=r"the merge began with 1\.13\.1; only the same versions"):
        run(zoo, tmp_path / "out", Here(other_torch))


def test_a_worker_refuses_inputs_with_other_headers(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    def other_headers(directory: Path, job: MergeJob, number: int) -> None:
        write_job(directory, job.model_copy(update={"layout": "0" * 64}))
        worker._joined.cache_clear()
        merge_group(directory, job.attempt, number)

    with pytest.raises(CheckpointError, match="headers give another plan"):
        run(zoo, tmp_path / "out", Here(other_headers))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # Done by the worker; but the run that coordinates the merge sees its own file written to.
        ("same", "an input changed while it was merged"),
        ("other", "is not the same file on this worker"),
        ("gone", "this input of the merge is not on this worker"),
    ],
)
def test_a_worker_knows_an_input_by_its_content_where_its_time_differs(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path, content: str, message: str
) -> None:
    weights = zoo["a"].directory / "model.safetensors"
    done = []

    def with_a_copy(directory: Path, job: MergeJob, number: int) -> None:
        data = bytearray(weights.read_bytes())
        if content == "gone":
            weights.unlink()
        else:
            data[-1] ^= content == "other"
            weights.write_bytes(data)
        done.append(merge_group(directory, job.attempt, number))

    with pytest.raises(CheckpointError, match=message):
        run(zoo, tmp_path / "out", Here(with_a_copy))
    assert len(done) == (8 if content == "same" else 0)


def test_a_job_of_another_version_is_not_misread(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    def changed(directory: Path, job: MergeJob, number: int) -> None:
        text = (directory / JOB).read_text()
        (directory / JOB).write_text(text.replace('"layout"', '"arrangement"'))
        assert read_job(directory) is None

    with pytest.raises(StepError, match="are not in place"):
        run(zoo, tmp_path / "out", Here(changed))


@pytest.mark.parametrize(
    "error",
    [
        NonFiniteError("holds NaN", where="a/model.safetensors", mend="use an earlier one"),
        StepError("died"),
        RecipeError("no such device", where="device"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_crosses_to_another_process_as_it_is(error: MergeflowError) -> None:
    again = error_from(error_values(error))
    assert type(again) is type(error)
    assert str(again) == str(error)


def test_an_error_of_an_unknown_kind_is_a_failed_step() -> None:
    values = {"kind": "SystemExit", "what": "x", "where": None, "mend": None}
    assert type(error_from(values)) is StepError
