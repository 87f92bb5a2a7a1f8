"""An input format is a reader: with its line in `READERS`, all that reads inputs takes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merge_core.checkpoints import checkpoint as checkpoints
from merge_core.checkpoints import safetensors_files
from merge_core.checkpoints.sources import describe_source
from merge_core.errors import CheckpointError
from merge_core.files.digests import DigestMemo
from merge_core.operations.tensor_differences import tensor_differences
from merge_core.records import SourceCheckpoint
from merge_core.verification.verify import verify
from tests.merge_core.checkpoints import scaled_rows
from tests.support.checkpoints import run_recipe, write_checkpoint

ROWS, COLUMNS = 96, 40
MATRIX, NORM = "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"
Weights = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "READERS", (scaled_rows, safetensors_files))


def pair(here: Path, name: str, seed: int) -> tuple[SourceCheckpoint, SourceCheckpoint]:
    """A checkpoint in the format of the example, and the same values as plain bfloat16."""
    random = torch.Generator().manual_seed(seed)
    stored = torch.randn(ROWS, COLUMNS, generator=random).to(torch.float8_e4m3fn)
    scales = torch.exp2(torch.randint(-3, 3, (ROWS,), generator=random).float())
    norm = torch.randn(COLUMNS, generator=random).to(torch.bfloat16)
    write_checkpoint(here / name, {MATRIX: stored, NORM: norm})
    save_file({MATRIX: scales}, here / name / scaled_rows.SCALES)
    scaled = describe_source(name, here / name, DigestMemo(None))
    whole = (stored.float() * scales[:, None]).to(torch.bfloat16)
    return scaled, write_checkpoint(here / f"{name}-plain", {MATRIX: whole, NORM: norm})


@pytest.mark.parametrize("method", ["linear", "ties"])
@pytest.mark.parametrize("block", [None, 256])
def test_a_merge_has_the_bytes_of_one_of_the_plain_values(
    tmp_path: Path, method: str, block: int | None
) -> None:
    merged = []
    for at in (0, 1):
        here = tmp_path / str(at)
        base, *models = (pair(here, name, seed)[at] for seed, name in enumerate("abc"))
        recipe: dict[str, object] = {
            "merge_method": method,
            "models": [{"model": it.reference, "parameters": {"weight": 0.5}} for it in models],
        }
        if method == "ties":
            recipe["base_model"] = base.reference
        sources = {it.reference: it for it in (base, *models)}
        run_recipe(recipe, sources, here / "out", block_elements=block)
        merged.append((here / "out" / "model.safetensors").read_bytes())
    assert merged[0] == merged[1]
    assert load_file(tmp_path / "0" / "out" / "model.safetensors")[MATRIX].dtype == torch.bfloat16


def test_it_is_verified_and_compared_like_any_other(tmp_path: Path) -> None:
    one, plain = pair(tmp_path, "a", 0)
    other, _ = pair(tmp_path, "b", 0)
    assert not verify(one, [other]).errors
    differences = tensor_differences(one.directory, plain.directory)
    assert (differences.compared, differences.changed, differences.other_dtype) == (2, (), ())


def test_its_files_are_in_its_digest(tmp_path: Path) -> None:
    one, _ = pair(tmp_path, "a", 0)
    assert scaled_rows.SCALES in {file.name for file in one.files}
    save_file({MATRIX: torch.ones(ROWS)}, one.directory / scaled_rows.SCALES)
    assert describe_source("a", one.directory, DigestMemo(None)).digest != one.digest


def test_a_directory_that_no_reader_knows_is_told_by_the_last(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no safetensors weights here"):
        checkpoints.open_checkpoint(tmp_path)
