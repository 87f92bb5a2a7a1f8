"""Fused kernels give the bytes of the methods' own kernels, on ordinary and on awkward values."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from merge_core.jit.kernel import BoundCall
from merge_core.kernels.cpu.computation import FusedComputation
from merge_core.kernels.cpu.families import WeightedSum
from merge_core.kernels.cpu.stored_tensor import StoredBlock, StoredTensor, Unusual
from merge_core.kernels.cpu.thresholds import find_cuts
from merge_core.kernels.cpu.weighted_sum import can_sum_in_float32, sum_of_two_powers, weighted_sum
from merge_core.methods import method_named
from merge_core.planning.merged_tensor import Computation, Computing, MergedTensor
from merge_core.reductions.constants import CHUNK
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.dtypes import ITEM_SIZES
from merge_core.tensors.safetensors_header import TensorEntry, read_header
from tests.support.slow_cases import first_few

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}

CASES: list[tuple[str, Mapping[str, Any]]] = [
    ("linear", {}),
    ("linear", {"normalize": False}),
    ("linear", {"weights": (1.0, 1.0, 2.0)}),
    ("linear", {"weights": (1.0, 1.0)}),
    ("passthrough", {"scale": 1.3}),
    ("task_arithmetic", {"lambda": 0.7}),
    ("task_arithmetic", {"normalize": True}),
    ("ties", {"density": 0.3}),
    ("ties", {"density": 0.3, "weights": (1.0, 1.0)}),
    ("ties", {"density": 0.3, "weights": (0.5, 0.25)}),
    ("ties", {"density": 0.1, "normalize": False, "elect": "count"}),
    ("ties", {"density": 0.999, "average": "count"}),
    ("ties", {"density": 0.0}),
    ("breadcrumbs", {"density": 0.4, "gamma": 0.05}),
    ("breadcrumbs_ties", {"density": 0.9, "gamma": 0.3}),
    ("dare_linear", {"density": 0.4}),
    ("dare_linear", {"density": 0.4, "rescale": "inverse_density"}),
    ("dare_ties", {"density": 0.6, "rescale": "l2", "normalize": True}),
    ("dare_ties", {"density": 1.0}),
    ("sce", {}),
    ("sce", {"select_topk": 0.3}),
    ("della", {"density": 0.5, "epsilon": 0.0}),
    ("della", {"density": 0.5}),
    ("della_linear", {"density": 0.4, "epsilon": 0.2, "rescale": "l2"}),
    ("della_linear", {"density": 0.0}),
    ("slerp", {"t": 0.3}),
    ("nuslerp", {}),
    ("multislerp", {"eps": 1e-60}),
    ("karcher", {}),
    ("model_stock", {}),
]


def normal(n: int) -> list[torch.Tensor]:
    base = torch.randn(n) * 0.02
    return [base, *(base + torch.randn(n) * 0.001 for _ in range(3))]


def few_values(n: int) -> list[torch.Tensor]:
    return [torch.zeros(n), *(torch.randint(-3, 4, (n,)) * 0.25 for _ in range(3))]


def nothing_changed(n: int) -> list[torch.Tensor]:
    return [torch.randn(n)] * 4


def signed_zeros(n: int) -> list[torch.Tensor]:
    return [torch.where(torch.rand(n) < 0.5, 0.0, -0.0) for _ in range(4)]


def subnormal(n: int) -> list[torch.Tensor]:
    return [values * 1e-38 for values in normal(n)]


def changed_here_and_there(n: int) -> list[torch.Tensor]:
    base = torch.randn(n) * 0.02
    return [base, *(base + (torch.rand(n) < 0.01) * 0.1 for _ in range(3))]


def increasing(n: int) -> list[torch.Tensor]:
    """A sample of a few runs says little of these."""
    return [torch.zeros(n), *(torch.linspace(-1, 1, n) * (i + 1) for i in range(3))]


def far_apart(n: int) -> list[torch.Tensor]:
    """Differences with more bits than a float32 holds."""
    scales = torch.tensor([1e-12, 1e-3, 1.0, 1e4])[torch.randint(0, 4, (4, n))]
    return list(torch.randn(4, n) * scales)


VALUES: list[Callable[[int], list[torch.Tensor]]] = [
    normal,
    few_values,
    nothing_changed,
    signed_zeros,
    subnormal,
    changed_here_and_there,
    increasing,
    far_apart,
]


@pytest.mark.parametrize("values", first_few(VALUES, 4), ids=lambda values: values.__name__)
def test_same_bytes_for_bfloat16(
    values: Callable[[int], list[torch.Tensor]], tmp_path: Path
) -> None:
    # More than two blocks, and rows that divide neither a block nor a chunk.
    shape = (601, 500)
    entries = stored(values(shape[0] * shape[1]), "BF16", shape, tmp_path)
    for method, parameters in CASES:
        assert_same_bytes(method, parameters, entries, "BF16", shape)


@pytest.mark.parametrize("dtype", ["F16", "F32"])
@pytest.mark.parametrize("values", [normal, subnormal], ids=lambda v: v.__name__)
def test_same_bytes_for_other_dtypes(
    dtype: str, values: Callable[[int], list[torch.Tensor]], tmp_path: Path
) -> None:
    shape = (300, 450)
    entries = stored(values(shape[0] * shape[1]), dtype, shape, tmp_path)
    for method, parameters in CASES[2::4]:
        assert_same_bytes(method, parameters, entries, dtype, shape)


@pytest.mark.parametrize("out", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_same_bytes_across_dtypes(dtype: str, out: str, tmp_path: Path) -> None:
    entries = stored(normal(5000), dtype, (5000,), tmp_path)
    for method in ("linear", "task_arithmetic", "ties"):
        parameters = {"density": 0.3} if method == "ties" else {}
        assert_same_bytes(method, parameters, entries, out, (5000,))


@pytest.mark.parametrize("shape", [(1,), (2,), (63,), (1, 65), (65, 1), (3, 4, 5)])
def test_same_bytes_for_small_tensors(shape: tuple[int, ...], tmp_path: Path) -> None:
    numel = int(torch.tensor(shape).prod())
    entries = stored(normal(numel), "BF16", shape, tmp_path)
    for method, parameters in CASES:
        assert_same_bytes(method, parameters, entries, "BF16", shape)


WEIGHTS = [(0.5, 0.5), (1.0, -0.5), (0.25, 2.0**-16), (-1.0, 1.0)]


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_float32_sums_two_bfloat16_like_float64(weights: tuple[float, float]) -> None:
    """Every pattern with patterns of every size, near and far."""
    every = np.arange(1 << 16, dtype=np.uint16)
    others = np.random.default_rng(1).integers(0, 1 << 16, 200).astype(np.uint16)
    found, expected = np.empty_like(every), np.empty_like(every)
    for distance in (*range(8), *(128 * steps for steps in range(1, 30)), *others):
        other = every + np.uint16(distance)
        for models in ((every, other), (every, other ^ np.uint16(1 << 15))):
            assert can_sum_in_float32(models, weights, found)
            sum_of_two_powers(models, weights, found)
            weighted_sum(models, weights, None, expected)
            finite = (expected & 0x7FFF) < 0x7F80
            assert np.array_equal(finite, (found & 0x7FFF) < 0x7F80)
            assert np.array_equal(found[finite], expected[finite])


@pytest.mark.parametrize(
    ("weights", "divisor", "name"),
    [((1.0, 1.0), 2.0, "sum_of_two_powers"), ((0.9, 0.9), 1.8, "weighted_sum")],
)
def test_an_average_of_two_is_summed_in_float32(
    weights: tuple[float, float], divisor: float, name: str
) -> None:
    patterns = np.zeros(4, np.uint16)
    [step] = WeightedSum(weights, divisor).steps(StoredBlock(0, None, (patterns,) * 2), patterns)
    assert isinstance(step.keeps, BoundCall)
    assert step.keeps.name == f"weighted_sum.{name}"


def test_float32_sums_nothing_else() -> None:
    bfloat16, float16 = np.zeros(4, np.uint16), np.zeros(4, np.int16)
    for weights in ((0.3, 0.5), (2.0, 0.5), (0.5, 2.0**-17), (0.5, 0.0), (0.5,), (0.5, 0.5, 0.5)):
        assert not can_sum_in_float32((bfloat16,) * len(weights), weights, bfloat16)
    assert not can_sum_in_float32((float16, float16), (0.5, 0.5), float16)
    assert not can_sum_in_float32((bfloat16, bfloat16), (0.5, 0.5), float16)


def test_exact_cuts_where_the_sample_misleads(tmp_path: Path) -> None:
    # Large values only between the runs that a sample would take.
    values = torch.full((1 << 20,), 1e-3)
    values[1024::16384] = torch.linspace(1, 2, 64)
    values += torch.arange(1 << 20) * 1e-9
    entries = stored([torch.zeros(1 << 20), values], "F32", (1 << 20,), tmp_path)
    order = values.abs().argsort(descending=True, stable=True)
    with BlockReader() as reader:
        tensor = StoredTensor(reader, entries[0], entries[1:], 1 << 16, lambda: None)
        from merge_core.kernels.cpu.families import Differences

        for count in (1, 63, 64, 65, 1000, (1 << 20) - 1):
            [cut] = find_cuts(tensor, [(Differences(0), count)])
            bits = values.view(torch.int32)
            belongs = bits > cut.threshold
            index = torch.arange(1 << 20)
            reach = (1 << 20) if cut.last is None else cut.last
            belongs |= (bits == cut.threshold) & (index <= reach)
            assert int(belongs.sum()) == count
            assert bool(belongs[order[:count]].all())


@pytest.mark.parametrize("varying", ["in the sample", "elsewhere"])
def test_sce_where_the_sample_misleads(varying: str, tmp_path: Path) -> None:
    numel = 1 << 17
    index = torch.arange(numel)
    # A sample takes every other run of 1024. Variances of the smallest are 0 as float32.
    sampled = (index // 1024) % 2 == 0
    varies = sampled if varying == "in the sample" else ~sampled
    sizes = torch.tensor([1e-30, 1e-30, 1e-3, 0.5])[index % 4]
    values = [torch.zeros(numel), *(varies * torch.randn(numel) * sizes for _ in range(3))]
    entries = stored(values, "BF16", (numel,), tmp_path)
    for share in (0.0, 1e-6, 0.1, 0.6, 0.999):
        assert_same_bytes("sce", {"select_topk": share}, entries, "BF16", (numel,))


def stored(
    values: list[torch.Tensor], dtype: str, shape: tuple[int, ...], directory: Path
) -> list[TensorEntry]:
    entries = []
    for number, each in enumerate(values):
        path = directory / f"{number}.safetensors"
        save_file({"w": each.reshape(shape).to(DTYPES[dtype])}, path)
        entries.append(read_header(path)["w"])
    return entries


def computed(
    method_name: str,
    parameters: Mapping[str, Any],
    entries: list[TensorEntry],
    out: str,
    shape: tuple[int, ...],
) -> MergedTensor:
    method = method_named(method_name)
    weights = parameters.get("weights", (0.5, 0.3, 0.9))
    models = entries[1 : 1 + min(method.most_models or 3, len(weights))]
    settings = {parameter.name: parameter.default for parameter in method.parameters} | dict(
        parameters
    )
    per_model = [
        {p.name: settings[p.name] for p in method.per_model()} | ({"weight": weight})
        for weight in weights
    ]
    needs_base = method.base == "required"
    return MergedTensor(
        name="w",
        dtype=out,
        shape=shape,
        method=method_name,
        base=entries[0] if needs_base else None,
        inputs=tuple(models),
        models=tuple(range(len(models))),
        model_parameters=tuple(per_model[: len(models)]),
        parameters={p.name: settings[p.name] for p in method.recipe_wide()},
        random_keys=tuple(range(11, 11 + len(models))),
    )


def assert_same_bytes(
    method: str,
    parameters: Mapping[str, Any],
    entries: list[TensorEntry],
    out: str,
    shape: tuple[int, ...],
) -> None:
    tensor = computed(method, parameters, entries, out, shape)
    with BlockReader() as reader:
        context = Computing(reader, torch.device("cpu"), 2 * CHUNK, {}, threading.Event())
        general = Computation(tensor, context)
        expected = b"".join(
            general.rounded(start, count).view(torch.uint8).numpy().tobytes()
            for start, count in general.ranges()
        )
        for block in (CHUNK, 2 * CHUNK):
            fused = FusedComputation.of(tensor, reader, block, lambda: None)
            assert fused is not None, f"{method} has no fused kernel for {parameters}"
            assert written(fused, out, tensor.numel) == expected, (
                f"{method} {dict(parameters)}, blocks of {block}"
            )


@dataclass
class MemorySink:
    """A file in memory."""

    descriptor: int
    size: int

    def position(self, start: int) -> int:
        return start * self.size

    def write(self, start: int, data: memoryview) -> None:
        raise AssertionError("the loop could not write")

    def add_seconds(self, seconds: float) -> None:
        assert seconds >= 0


def written(fused: FusedComputation, dtype: str, numel: int) -> bytes:
    """What a computation writes."""
    with os.fdopen(os.memfd_create("merged"), "rb") as file:
        sink = MemorySink(file.fileno(), ITEM_SIZES[dtype])
        fused.write(sink, 0, numel)
        return file.read()


NOT_FINITE = {
    "BF16": [0x7F80, 0xFF80, 0x7FC0, 0xFFFF],
    "F16": [0x7C00, 0xFC00, 0x7E00, 0xFFFF],
    "F32": [0x7F800000, 0xFF800000, 0x7FC00000, 0xFFFFFFFF, 0x7FFF8000],
}


@pytest.mark.parametrize(("dtype", "out"), [("BF16", "BF16"), ("F16", "BF16"), ("F32", "BF16")])
def test_no_infinity_or_nan_gets_through(dtype: str, out: str, tmp_path: Path) -> None:
    shape = (40, 50)
    width = torch.int32 if dtype == "F32" else torch.int16
    for pattern in NOT_FINITE[dtype]:
        for broken in (0, 1):
            values = [each.to(DTYPES[dtype]) for each in normal(2000)]
            bits = values[broken].view(width)
            bits[1234:1240] = pattern - (1 << 8 * width.itemsize) * (
                pattern >= 1 << (8 * width.itemsize - 1)
            )
            entries = stored(values, dtype, shape, tmp_path)
            for method, parameters in CASES[::4] if dtype == "F16" else CASES[::2]:
                tensor = computed(method, parameters, entries, out, shape)
                if broken == 0 and tensor.base is None:
                    continue
                with pytest.raises(Unusual):
                    run_fused(tensor)
                if method_named(method).fewest_models == 1:
                    alone = computed(method, parameters, entries[:2], out, shape)
                    with pytest.raises(Unusual):
                        run_fused(alone)


def run_fused(tensor: MergedTensor) -> None:
    with BlockReader() as reader:
        fused = FusedComputation.of(tensor, reader, CHUNK, lambda: None)
        assert fused is not None
        written(fused, tensor.dtype, tensor.numel)
