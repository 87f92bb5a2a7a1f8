"""What a merge does on a GPU, on a device that is none: the bytes of the CPU for every method.

See `tests.support.pretend_gpu` for what that can show, and `tests/gpu` for a real one.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from merge_core.engine import run, worker
from merge_core.errors import NonFiniteError, StepError
from merge_core.methods import METHODS
from merge_core.methods.base import TensorJob
from merge_core.methods.parts.model_statistics import GlobalTrim
from merge_core.methods.spherical import add_rows
from merge_core.planning.merged_tensor import Computation
from merge_core.records import SourceCheckpoint
from merge_core.reductions.cpu import sum_in_lanes
from merge_core.reductions.gpu import sums_of_steps
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.inputs import FeedContext
from merge_core.tensors.safetensors_header import TensorEntry
from tests.conformance.gpu_cases import RECIPES, write_zoo
from tests.support.checkpoints import run_recipe, write_checkpoint
from tests.support.pretend_gpu import GPU, Remote, Visits, pretend_gpu, queue
from tests.support.slow_cases import first_few

__all__ = ["pretend_gpu"]

Zoo = dict[str, SourceCheckpoint]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return write_zoo(tmp_path_factory.mktemp("zoo"), torch.bfloat16)


def test_every_method_has_a_recipe() -> None:
    on_data = {name for name, method in METHODS.items() if method.calibration}
    assert set(RECIPES) | on_data == set(METHODS)


@pytest.mark.parametrize("method", first_few(sorted(RECIPES), 7))
def test_a_gpu_gives_the_bytes_of_the_cpu(
    method: str, models: Zoo, tmp_path: Path, pretend_gpu: type[Visits]
) -> None:
    on_cpu = run_recipe(RECIPES[method], models, tmp_path / "cpu", device="cpu")
    assert not pretend_gpu.count
    on_gpu = run_recipe(RECIPES[method], models, tmp_path / "gpu", device="cuda", threads=2)
    assert pretend_gpu.count
    assert on_gpu.object_id == on_cpu.object_id


@pytest.mark.parametrize("method", first_few(["linear", "task_arithmetic", "dare_linear"], 1))
def test_a_gpu_divides_as_the_cpu_does(
    method: str, models: Zoo, tmp_path: Path, pretend_gpu: type[Visits]
) -> None:
    recipe: dict[str, object] = {
        "merge_method": method,
        "base_model": "base",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": {"weight": 0.9, "normalize": True},
    }
    on_cpu = run_recipe(recipe, models, tmp_path / "cpu", device="cpu")
    on_gpu = run_recipe(recipe, models, tmp_path / "gpu", device="cuda")
    assert on_gpu.object_id == on_cpu.object_id


@pytest.mark.parametrize("shape", [(7, 3), (9, 4, 5), (2, 3, 4)])
def test_columns_are_summed_in_one_order_on_a_gpu(shape: tuple[int, ...]) -> None:
    rows = torch.randn(math.prod(shape[:-1]), shape[-1], dtype=torch.float64)
    groups = math.prod(shape[1:-1])
    for first in (0, 4):  # in two blocks, of which the second begins anywhere
        expected, found = torch.zeros(2, groups, shape[-1], dtype=torch.float64)
        for start, stop in ((0, first), (first, len(rows))):
            if start < stop:
                add_rows(expected, rows[start:stop], start % groups)
                with queue(GPU):
                    remote = Remote(found)
                    add_rows(remote, Remote(rows[start:stop]), start % groups)
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-15)
        torch.testing.assert_close(expected, rows.view(-1, groups, shape[-1]).sum(0))


@pytest.mark.parametrize("method", ["linear", "ties", "della", "slerp", "sce"])
@pytest.mark.slow
def test_blocks_and_workers_change_no_byte_on_a_gpu(
    method: str, models: Zoo, tmp_path: Path, pretend_gpu: type[Visits]
) -> None:
    found = {
        run_recipe(
            RECIPES[method],
            models,
            tmp_path / f"{threads}",
            device="cuda",
            threads=threads,
            block_elements=block,
        ).object_id
        for threads, block in ((1, 1), (2, 70_000), (3, 1 << 22))
    }
    assert len(found) == 1


def test_inputs_stay_on_the_gpu_between_passes_where_they_fit(
    models: Zoo, tmp_path: Path, pretend_gpu: type[Visits], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[str] = Counter()
    read_into = BlockReader.read_into

    def counted(self: BlockReader, entry: TensorEntry, start: int, view: memoryview) -> None:
        reads[entry.name] += len(view) * (entry.path.parent.name == "a")
        read_into(self, entry, start, view)

    monkeypatch.setattr(BlockReader, "read_into", counted)
    kept = run_recipe(RECIPES["ties"], models, tmp_path / "kept", device="cuda")
    once = dict(reads)
    assert once["layers.0.long.weight"] == 2 * 140_001
    reads.clear()
    # One block of the base and of two models, and nothing else.
    monkeypatch.setattr(run, "spare_memory", lambda device: 3 * 2 * 65536)
    options = {"device": "cuda", "threads": 1, "block_elements": 1}
    some = run_recipe(RECIPES["ties"], models, tmp_path / "some", **options)
    assert 2 * once["layers.0.long.weight"] < reads["layers.0.long.weight"]
    assert some.object_id == kept.object_id


@pytest.mark.parametrize("method", first_few(["linear", "ties", "slerp"], 1))
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_gpu_tells_which_input_is_not_finite(
    method: str, value: float, models: Zoo, tmp_path: Path, pretend_gpu: type[Visits]
) -> None:
    broken = torch.zeros(140_001, dtype=torch.bfloat16)
    sound = {name: torch.randn(140_001).to(torch.bfloat16) for name in ("base", "a", "b", "c")}
    broken[70_000] = value
    zoo = {
        name: write_checkpoint(
            tmp_path / name, {"layers.0.weight": broken if name == "a" else values}
        )
        for name, values in sound.items()
    }
    with pytest.raises(NonFiniteError, match=r"layers\.0\.weight holds NaN or infinity \(1 ") as e:
        run_recipe(RECIPES[method], zoo, tmp_path / "out", device="cuda")
    assert f"{tmp_path}/a/" in str(e.value)


def test_a_gpu_tells_of_a_result_that_is_too_large(
    tmp_path: Path, pretend_gpu: type[Visits]
) -> None:
    values = torch.full((70_000,), 60_000.0, dtype=torch.float16)
    zoo = {name: write_checkpoint(tmp_path / name, {"w": values}) for name in "abc"}
    recipe = RECIPES["linear"] | {"parameters": {"weight": 1.0, "normalize": False}}
    with pytest.raises(NonFiniteError, match=r"values up to 9e\+04, which float16 cannot hold"):
        run_recipe(recipe, zoo, tmp_path / "out", device="cuda")


SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("shortage", SHORTAGES, ids=["torch", "cublas"])
def test_a_gpu_without_enough_memory_says_what_to_do_and_loses_nothing(
    shortage: Exception,
    models: Zoo,
    tmp_path: Path,
    pretend_gpu: type[Visits],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounded = Computation.rounded

    def scarce(self: Computation, start: int, count: int) -> torch.Tensor:
        if self.numel > 100_000:
            raise shortage
        return rounded(self, start, count)

    with monkeypatch.context() as patch:
        patch.setattr(Computation, "rounded", scarce)
        with pytest.raises(StepError, match="not enough free memory to compute tensor") as error:
            run_recipe(RECIPES["ties"], models, tmp_path / "out", device="cuda")
        assert "device: cpu" in str(error.value)
    mended = run_recipe(RECIPES["ties"], models, tmp_path / "out", device="cpu")
    whole = run_recipe(RECIPES["ties"], models, tmp_path / "whole", device="cpu")
    assert mended.object_id == whole.object_id


@pytest.mark.slow
def test_a_gpu_that_is_short_of_memory_merges_without_keeping_inputs(
    models: Zoo, tmp_path: Path, pretend_gpu: type[Visits], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_keep = FeedContext.may_keep
    kept: list[int] = []
    short: list[weakref.ref[FeedContext]] = []

    def scarce(self: FeedContext, nbytes: int) -> bool:
        keeps = may_keep(self, nbytes)
        if keeps and sum(kept) > 200_000:
            short.append(weakref.ref(self))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        kept.append(nbytes * keeps)
        return keeps

    monkeypatch.setattr(FeedContext, "may_keep", scarce)
    given_back: list[bool] = []
    monkeypatch.setattr(worker, "give_back", lambda: given_back.append(short[-1]() is None))
    options = {"device": "cuda", "threads": 1}
    on_gpu = run_recipe(RECIPES["ties"], models, tmp_path / "gpu", **options)
    assert len(given_back) == len(short) > 0
    assert all(given_back), "what was kept was still held"
    on_cpu = run_recipe(RECIPES["ties"], models, tmp_path / "cpu", device="cpu")
    assert on_gpu.object_id == on_cpu.object_id


def test_model_statistics_on_a_gpu_without_enough_memory_say_what_to_do(
    models: Zoo, tmp_path: Path, pretend_gpu: type[Visits], monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(self: GlobalTrim, index: int, job: TensorJob) -> None:
        raise SHORTAGES[0]

    monkeypatch.setattr(GlobalTrim, "observer", scarce)
    recipe = RECIPES["ties"] | {"parameters": {"density": 0.4, "scope": "global"}}
    with pytest.raises(StepError, match="not enough free memory to look at tensor"):
        run_recipe(recipe, models, tmp_path / "out", device="cuda")


@pytest.mark.parametrize(("count", "step"), [(0, 7), (1, 7), (140_001, 65_536), (5170, 517)])
def test_sums_on_a_gpu_have_the_bits_of_the_cpu(count: int, step: int) -> None:
    values = (
        np.random.default_rng(1).standard_normal(count)
        * 10.0 ** np.arange(count % 97, -1, -1).mean()
    )
    expected = [sum_in_lanes(values[first : first + step]) for first in range(0, count, step)]
    assert sums_of_steps(torch.from_numpy(values), step) == expected
