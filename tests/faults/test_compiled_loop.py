"""What the system refuses while no interpreter is asked: told as ever, and nothing lost."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from merge_core.engine.run import run_plan
from merge_core.errors import CheckpointError, OutputError
from merge_core.kernels.cpu.computation import BLOCK
from merge_core.output.staging import Staging
from merge_core.planning.plan import Plan, make_plan
from merge_core.recipes.loading import parse_recipe
from merge_core.runtime.compute import Compute
from tests.support.checkpoints import write_checkpoint

METHODS: dict[str, dict[str, Any]] = {
    "linear": {"weight": 1.0},
    "ties": {"weight": 0.5, "density": 0.3},
    "dare_linear": {"weight": 0.5, "density": 0.3, "rescale": "l1"},
}
ROWS, COLUMNS = 100, 5 * BLOCK // 100
"""Five blocks, and nothing left."""


@pytest.fixture(params=METHODS)
def plan(request: pytest.FixtureRequest, tmp_path: Path) -> Plan:
    generator = torch.Generator().manual_seed(0)
    sources = {
        name: write_checkpoint(
            tmp_path / name,
            {
                key: torch.randn(ROWS, COLUMNS, generator=generator, dtype=torch.bfloat16)
                for key in ("first", "second")
            },
        )
        for name in ("base", "a", "b")
    }
    recipe = {
        "merge_method": request.param,
        "base_model": "base",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": METHODS[request.param],
    }
    return make_plan(parse_recipe(recipe), sources)


def merged(plan: Plan, directory: Path, before: Callable[[Staging], None]) -> bytes:
    """The weights that a merge in place of an interrupted one writes."""
    with Staging(directory, plan) as staging:
        staging.prepare()
        before(staging)
        run_plan(plan, staging, Compute(threads=1))
        return (staging.checkpoint / plan.shards[0].name).read_bytes()


def nothing(staging: Staging) -> None:
    pass


def test_a_full_disk_is_told_and_the_next_merge_goes_on(plan: Plan, tmp_path: Path) -> None:
    expected = merged(plan, tmp_path / "undisturbed", nothing)

    def fill(staging: Staging) -> None:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, staging.descriptor(0))
        os.close(full)

    with pytest.raises(OutputError, match=r"(?s)No space left.*finished tensors are kept"):
        merged(plan, tmp_path / "work", fill)
    assert merged(plan, tmp_path / "work", nothing) == expected


def test_a_write_that_the_system_cuts_short_is_told(plan: Plan, tmp_path: Path) -> None:
    expected = merged(plan, tmp_path / "undisturbed", nothing)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    slot = plan.tensors[-1].slot

    def limit(staging: Staging) -> None:
        within_a_block = slot.offset + slot.nbytes - BLOCK - 1000
        resource.setrlimit(resource.RLIMIT_FSIZE, (within_a_block, before[1]))

    try:
        with pytest.raises(OutputError, match="File too large"):
            merged(plan, tmp_path / "work", limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert merged(plan, tmp_path / "work", nothing) == expected


def test_who_interrupts_twice_still_waits_for_what_uses_the_files(
    plan: Plan, tmp_path: Path
) -> None:
    over = []

    class InterruptsTwice:
        def written(self, index: int, start: int, stop: int) -> None:
            for _ in range(2):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                time.sleep(0.2)
            over.append(index)

        def pace(self, workers: int, is_over: Callable[[], bool]) -> None:
            return

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    try:
        with Staging(tmp_path / "work", plan) as staging:
            staging.prepare()
            with pytest.raises(KeyboardInterrupt):
                run_plan(plan, staging, Compute(threads=1), follower=InterruptsTwice())
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(over) == 1, "the worker was waited for, and began nothing more"


def test_an_input_cut_short_while_it_is_read_is_told(plan: Plan, tmp_path: Path) -> None:
    def cut(staging: Staging) -> None:
        weights = tmp_path / "b" / "model.safetensors"
        os.truncate(weights, weights.stat().st_size - 3 * BLOCK)

    with pytest.raises(CheckpointError, match=r"the file ended inside tensor '(first|second)'"):
        merged(plan, tmp_path / "work", cut)


def test_an_input_that_is_a_directory_by_now_is_told(plan: Plan, tmp_path: Path) -> None:
    weights = tmp_path / "b" / "model.safetensors"

    def replace(staging: Staging) -> None:
        weights.unlink()
        weights.mkdir()

    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        merged(plan, tmp_path / "work", replace)
