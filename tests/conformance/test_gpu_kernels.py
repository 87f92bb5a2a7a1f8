"""The GPU's kernels give the bytes of the methods' own expressions, as far as a CPU can tell.

Without a GPU Triton's interpreter carries them out, with numpy: that shows what they say. Its
compiler turns them into machine code for two GPUs, which shows that they compile, and that no
product and sum become one operation. With a GPU the same tests run on it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from merge_core.engine import run, worker
from merge_core.kernels.gpu import computation
from merge_core.kernels.gpu.computation import GpuComputation
from merge_core.planning.merged_tensor import Computation, Computing
from merge_core.progress import Stopped
from merge_core.reductions.constants import CHUNK
from merge_core.reductions.cpu import sum_in_lanes
from merge_core.reductions.gpu import lanes_agree, lanes_by_kernel
from merge_core.runtime import gpu_self_check
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.safetensors_header import TensorEntry
from tests.conformance.gpu_cases import RECIPES, write_zoo
from tests.conformance.test_fused_kernels import CASES, VALUES, computed, normal, stored
from tests.support.checkpoints import run_recipe
from tests.support.slow_cases import first_few

pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # of numpy

CPU = torch.device("cpu")
DEVICE = torch.device("cuda:0") if torch.cuda.is_available() else CPU
COVERED = [case for case in CASES if case[0] in ("linear", "passthrough", "task_arithmetic")]


@pytest.mark.parametrize("values", first_few(VALUES[1::2], 2), ids=lambda values: values.__name__)
def test_same_bytes_for_bfloat16(
    values: Callable[[int], list[torch.Tensor]], tmp_path: Path
) -> None:
    shape = (150, 450)  # more than one block
    entries = stored(values(shape[0] * shape[1]), "BF16", shape, tmp_path)
    for method, parameters in COVERED:
        assert_same_bytes(method, parameters, entries, "BF16", shape)


@pytest.mark.parametrize("out", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_same_bytes_across_dtypes(dtype: str, out: str, tmp_path: Path) -> None:
    entries = stored(normal(5000), dtype, (5000,), tmp_path)
    for method, parameters in COVERED:
        assert_same_bytes(method, parameters, entries, out, (5000,))


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_left_to_the_methods_own_expressions(
    dtype: str, value: float, tmp_path: Path
) -> None:
    for broken in range(2):
        values = normal(3000)
        values[broken][2999] = value
        entries = stored(values, dtype, (3000,), tmp_path)
        for method, parameters in COVERED:
            tensor = computed(method, parameters, entries, dtype, (3000,))
            if broken or tensor.base is not None:
                assert merged_bytes(tensor, 1 << 12) is None


def test_a_result_that_is_too_large_is_left_to_the_methods_own_expressions(tmp_path: Path) -> None:
    entries = stored([torch.full((50,), 60_000.0)] * 4, "F16", (50,), tmp_path)
    tensor = computed("linear", {"normalize": False}, entries, "F16", (50,))
    assert merged_bytes(tensor, 1 << 12) is None
    assert merged_bytes(tensor._replace(dtype="F32"), 1 << 12) is not None


def test_a_merge_that_is_given_up_stops_between_blocks(tmp_path: Path) -> None:
    entries = stored(normal(5000), "BF16", (5000,), tmp_path)
    written: list[int] = []

    def check() -> None:
        if written:
            raise Stopped

    with BlockReader() as reader:
        tensor = computed("linear", {}, entries, "BF16", (5000,))
        merging = GpuComputation.of(tensor, reader, DEVICE, 1000, check)
        assert merging is not None
        with pytest.raises(Stopped):
            merging.write(_Sink(lambda start, data: written.append(start)), 0, 5000)
    assert written == [0]


@pytest.mark.parametrize("method", first_few(["linear", "task_arithmetic", "passthrough"], 1))
def test_a_whole_merge_goes_by_the_kernels(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = write_zoo(tmp_path, torch.bfloat16)
    expected = run_recipe(RECIPES[method], zoo, tmp_path / "cpu", device="cpu")
    monkeypatch.setattr(run, "is_cpu", lambda name: name != "cuda")
    monkeypatch.setattr(run, "spare_memory", lambda device: 0)
    for module in (run, worker):
        monkeypatch.setattr(module, "compute_device", lambda name: DEVICE)
    monkeypatch.setattr(gpu_self_check, "_found", {})
    general: list[str] = []
    monkeypatch.setattr(Computation, "rounded", lambda self, start, count: general.append("called"))
    # The interpreter is not for threads.
    found = run_recipe(RECIPES[method], zoo, tmp_path / "gpu", device="cuda", threads=1)
    assert found.object_id == expected.object_id
    assert not general
    assert set(gpu_self_check._found.values()) == {True}


def test_a_kernel_that_differs_or_fails_is_not_used_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(gpu_self_check._log, "warning", lambda text, *of: said.append(text % of))
    entries = stored(normal(50), "BF16", (50,), tmp_path)
    tensor = computed("linear", {}, entries, "BF16", (50,))
    combine = computation.Combining.__call__

    def off_by_one(self: Any, stored: torch.Tensor) -> Any:
        merged, broken = combine(self, stored)
        merged.view(torch.int16)[-1] += 1
        return merged, broken

    def failing(self: Any, stored: torch.Tensor) -> Any:
        raise RuntimeError("no C compiler was found")

    for wrong, why in (
        (off_by_one, "it gives other bits than torch"),
        (failing, "RuntimeError: no C compiler was found"),
    ):
        monkeypatch.setattr(gpu_self_check, "_found", {})
        monkeypatch.setattr(computation.Combining, "__call__", wrong)
        said.clear()
        assert merged_bytes(tensor, CHUNK) is None
        assert merged_bytes(tensor, CHUNK) is None
        assert said == [
            f"Triton's kernel weighted_sum cannot be used on {DEVICE} ({why}): merging without it"
        ]


def test_a_kernel_is_tried_for_all_that_it_is_compiled_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_self_check, "_found", {})
    entries = stored(normal(50), "BF16", (50,), tmp_path)
    for method, out in (("linear", "BF16"), ("linear", "F32"), ("task_arithmetic", "BF16")):
        assert merged_bytes(computed(method, {}, entries, out, (50,)), CHUNK)
    assert [key[1:] for key in gpu_self_check._found] == [
        ("weighted_sum", 3, True, "BF16", "BF16"),
        ("weighted_sum", 3, True, "BF16", "F32"),
        ("task_vector_sum", 3, False, "BF16", "BF16"),
    ]


def test_lanes_by_the_kernel_have_the_bits_of_the_cpu() -> None:
    assert lanes_agree(DEVICE)
    values = torch.randn(7, 1000, dtype=torch.float64)
    lanes = lanes_by_kernel(values.to(DEVICE)).cpu().numpy()
    expected = [float(sum_in_lanes(row.numpy())) for row in values]
    assert np.cumsum(lanes, axis=1)[:, -1].tolist() == expected


COMPILING = """
import re
from itertools import product
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from merge_core.kernels.gpu import triton_kernels as kernels
from merge_core.reductions import triton_lanes

POINTERS = {0: "*i16", 1: "*fp16", 2: "*fp32", 3: "*fp64"}
count = 0
for name, capability, stored, out in product(
    ("weighted_sum", "task_vector_sum"), (80, 90), (0, 1, 2), (0, 1, 2, 3)
):
    if stored != 0 and stored != out:
        continue
    kernel = getattr(kernels, name)
    constants = {
        "models": 2, "divided": True, "stored_format": stored, "out_format": out,
        "tile": kernels.TILE,
    }
    signature = {
        "stored": POINTERS[stored], "numbers": "*fp64", "out": POINTERS[out], "broken": "*i32",
        "count": "i32", **dict.fromkeys(constants, "constexpr"),
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    made = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options=dict(triton_lanes.EXACT)
    )
    text = made.asm["ptx"]
    assert made.asm["cubin"]
    assert not re.search(r"\\bfma\\.\\S*f(32|64)", text), (name, capability, stored, out)
    assert re.search(r"\\bmul\\.rn\\.f64", text), text
    assert re.search(r"\\bdiv\\.rn\\.f64", text), text
    count += 1
for capability in (80, 90):
    source = ASTSource(
        fn=triton_lanes.add_lanes,
        signature={"values": "*fp64", "lanes": "*fp64", "length": "i32", "width": "constexpr"},
        constexprs={"width": 256},
    )
    made = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options=dict(triton_lanes.EXACT)
    )
    assert re.search(r"\\badd\\.(rn\\.)?f64", made.asm["ptx"]), made.asm["ptx"]
    count += 1
print(count, "kernels")
"""


def test_kernels_compile_for_gpus_and_nothing_is_contracted() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILING], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "26 kernels\n"


class _Sink:
    def __init__(self, write: Callable[[int, memoryview], object]) -> None:
        self.write = write


def merged_bytes(tensor: Any, block: int) -> bytes | None:
    """What the kernels write, or None where they leave it to others."""
    room = bytearray(tensor.numel * {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}[tensor.dtype])
    size = len(room) // tensor.numel

    def write(start: int, data: memoryview) -> None:
        room[start * size : start * size + len(data)] = data

    with BlockReader() as reader:
        merging = GpuComputation.of(tensor, reader, DEVICE, block, lambda: None)
        if merging is None or not merging.write(_Sink(write), 0, tensor.numel):
            return None
        return bytes(room)


def assert_same_bytes(
    method: str, parameters: Any, entries: list[TensorEntry], out: str, shape: tuple[int, ...]
) -> None:
    tensor = computed(method, parameters, entries, out, shape)
    with BlockReader() as reader:
        general = Computation(tensor, Computing(reader, CPU, CHUNK, {}, threading.Event()))
        expected = b"".join(
            general.rounded(start, count).view(torch.uint8).numpy().tobytes()
            for start, count in general.ranges()
        )
    assert merged_bytes(tensor, CHUNK) == expected, (method, parameters)
