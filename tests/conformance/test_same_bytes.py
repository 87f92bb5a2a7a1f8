"""Same recipe, same inputs, same bytes: on any thread count, block size, shard size or resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from merge_core.engine import worker
from merge_core.errors import NonFiniteError
from merge_core.records import SourceCheckpoint
from merge_core.reductions.constants import CHUNK
from tests.support.checkpoints import run_recipe, write_checkpoint

TWO = [{"model": "a"}, {"model": "b"}]
RECIPES: dict[str, dict[str, object]] = {
    "slerp": {"models": [{"model": "a"}], "parameters": {"t": 0.3}},
    "ties": {"models": TWO, "parameters": {"weight": 0.5, "density": 0.3, "rescale": True}},
    "dare_ties": {"models": TWO, "parameters": {"weight": 0.5, "density": 0.3}},
    "della": {"models": TWO, "parameters": {"weight": 0.5, "density": 0.3}},
    "nuslerp": {
        "models": TWO,
        "parameters": {"weight": 0.5, "nuslerp_flatten": False, "nuslerp_row_wise": True},
    },
    "multislerp": {"models": TWO, "parameters": {"weight": 0.5}},
    "sce": {"models": TWO, "parameters": {"select_topk": 0.2}},
}
"""One method at least of each way of going through a tensor, and of each kind of state."""

SHAPES = [(140_001,), (65_536,), (65_537,), (3,), (0,), (201, 517), (2, 70_000), (40, 5, 131)]
"""Around the ends of steps and blocks; rows that do not divide a step, and one longer than it."""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SourceCheckpoint]:
    root = tmp_path_factory.mktemp("zoo")
    zoo = {}
    for seed, name in enumerate(("base", "a", "b")):
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            f"layers.{index}.weight": torch.randn(shape, generator=generator).to(torch.bfloat16)
            for index, shape in enumerate(SHAPES)
        }
        zoo[name] = write_checkpoint(root / name, tensors, shards=2)
    return zoo


@pytest.mark.parametrize("method", sorted(RECIPES))
def test_threads_blocks_and_shards_do_not_change_a_byte(
    method: str, zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    recipe = {"merge_method": method, "base_model": "base", **RECIPES[method]}
    variants: list[dict[str, int]] = [
        {"threads": 1},
        {"threads": 4, "block_elements": 1},
        {"threads": 3, "block_elements": 200_000},
        {"threads": 1, "block_elements": 1 << 22},
    ]
    digests = set()
    for number, variant in enumerate(variants):
        manifest = run_recipe(recipe, zoo, tmp_path / f"out-{number}", **variant)
        digests.add(manifest.object_id)
    assert len(digests) == 1
    whole = load_file(tmp_path / "out-0" / "model.safetensors")
    run_recipe(recipe, zoo, tmp_path / "sharded", shard_bytes=300_000)
    shards = sorted((tmp_path / "sharded").glob("model-*.safetensors"))
    assert len(shards) > 2
    parts = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    assert parts.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(parts[name].view(torch.int16), tensor.view(torch.int16)), name


def test_the_order_of_input_shards_does_not_change_the_merge(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    recipe = {"merge_method": "ties", "base_model": "base", **RECIPES["ties"]}
    run_recipe(recipe, zoo, tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    single = {}
    for name, source in zoo.items():
        tensors: dict[str, torch.Tensor] = {}
        for shard in sorted(source.directory.glob("*.safetensors")):
            tensors |= load_file(shard)
        single[name] = write_checkpoint(tmp_path / name, tensors)
    run_recipe(recipe, single, tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    for name, tensor in merged.items():
        assert torch.equal(again[name].view(torch.int16), tensor.view(torch.int16)), name


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "nearswap"])
def test_a_tensor_computed_in_parts_has_the_same_bytes(
    method: str,
    zoo: dict[str, SourceCheckpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parameters = {"t": 1e-3} if method == "nearswap" else {"weight": 0.4}
    models = TWO[:1] if method == "nearswap" else TWO
    recipe = {
        "merge_method": method,
        "base_model": "base",
        "models": models,
        "parameters": parameters,
    }
    whole = run_recipe(recipe, zoo, tmp_path / "whole")
    monkeypatch.setattr(worker, "PART", CHUNK)
    parts = run_recipe(recipe, zoo, tmp_path / "parts", threads=4)
    assert parts.object_id == whole.object_id


def test_infinity_in_a_later_part_of_a_tensor_is_told(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.zeros(3 * CHUNK, dtype=torch.bfloat16)
    sound = write_checkpoint(tmp_path / "sound", {"layers.0.weight": values})
    values[2 * CHUNK + 5] = torch.inf
    broken = write_checkpoint(tmp_path / "broken", {"layers.0.weight": values})
    monkeypatch.setattr(worker, "PART", CHUNK)
    recipe = {"merge_method": "linear", "models": [{"model": "sound"}, {"model": "broken"}]}
    with pytest.raises(NonFiniteError, match=r"layers\.0\.weight holds NaN or infinity"):
        run_recipe(recipe, {"sound": sound, "broken": broken}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
