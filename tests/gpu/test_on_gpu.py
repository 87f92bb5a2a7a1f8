"""A real GPU against the CPU: the same entries stay, and values agree to a unit in the last place.

Where a method takes no decomposition, and no function of the device's own such as an arc cosine,
the bytes are meant to be the same.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from merge_core.engine import worker
from merge_core.records import SourceCheckpoint
from merge_core.reductions import gpu
from merge_core.runtime import gpu_self_check
from tests.conformance.gpu_cases import RECIPES, write_zoo
from tests.support.checkpoints import run_recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]

SAME_BYTES = {
    "linear",
    "passthrough",
    "slerp",
    "multislerp",
    "karcher",
    "task_arithmetic",
    "ties",
    "dare_linear",
    "dare_ties",
    "breadcrumbs",
    "breadcrumbs_ties",
    "della_linear",
    "della",
    "sce",
    "magmax",
    "emr",
    "consensus_ta",
}
PATTERNS = {2: torch.int16, 4: torch.int32}


@pytest.fixture(scope="module", params=["bfloat16", "float16", "float32"])
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, SourceCheckpoint]:
    return write_zoo(tmp_path_factory.mktemp("zoo"), getattr(torch, request.param))


@pytest.mark.parametrize("method", sorted(RECIPES))
def test_a_gpu_agrees_with_the_cpu(
    method: str, models: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    run_recipe(RECIPES[method], models, tmp_path / "cpu", device="cpu")
    run_recipe(RECIPES[method], models, tmp_path / "gpu", device="cuda")
    expected = load_file(tmp_path / "cpu" / "model.safetensors")
    found = load_file(tmp_path / "gpu" / "model.safetensors")
    base = load_file(models["base"].directory / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        distance = (ordered(found[name]) - ordered(values)).abs()
        assert int(distance.max() if distance.numel() else 0) <= (method not in SAME_BYTES), name
        changed, expected_change = found[name] != base[name], values != base[name]
        assert torch.equal(changed, expected_change), f"{name}: other entries stay"


COLUMNS = RECIPES["nuslerp"] | {"parameters": {"nuslerp_flatten": False}}


@pytest.mark.parametrize("method", ["linear", "ties", "slerp", "della", "nuslerp by columns"])
def test_workers_and_blocks_change_no_byte(
    method: str, models: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    recipe = RECIPES.get(method, COLUMNS)
    found = set()
    for threads, block in ((1, 1), (2, 1 << 22), (8, 70_000)):
        options = {"device": "cuda", "threads": threads, "block_elements": block}
        manifest = run_recipe(recipe, models, tmp_path / f"{threads}", **options)
        found.add(manifest.object_id)
    assert len(found) == 1


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "slerp", "ties", "dare_linear"])
def test_torch_alone_gives_the_bytes_of_the_kernels(
    method: str,
    models: dict[str, SourceCheckpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_kernels = run_recipe(RECIPES[method], models, tmp_path / "kernels", device="cuda")
    monkeypatch.setattr(worker.Work, "_by_kernel", lambda self, tensor, part: False)
    monkeypatch.setattr(gpu, "is_trusted", lambda *_: False)
    by_torch = run_recipe(RECIPES[method], models, tmp_path / "torch", device="cuda")
    assert by_torch.object_id == by_kernels.object_id


@pytest.mark.parametrize("method", ["linear", "passthrough", "task_arithmetic", "slerp"])
def test_a_kernel_that_is_tried_here_gives_the_right_bits(
    method: str,
    models: dict[str, SourceCheckpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu_self_check, "_found", {})
    run_recipe(RECIPES[method], models, tmp_path / "out", device="cuda")
    assert gpu_self_check._found
    assert all(gpu_self_check._found.values())


def ordered(values: torch.Tensor) -> torch.Tensor:
    """Patterns as integers whose differences count the values in between: int64."""
    bits = values.view(PATTERNS[values.element_size()]).to(torch.int64)
    smallest = -(1 << (8 * values.element_size() - 1))
    return torch.where(bits >= 0, bits, smallest - bits)
