"""An input format is a reader: with its line in `READERS`, all that reads inputs takes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merge_core.checkpoints import checkpoint as checkpoints
from merge_core.checkpoints import safetensors_files
from merge_core.checkpoints.sources import describe_source
from merge_core.errors import CheckpointError
from merge_core.files import names as names_of_files
from merge_core.files.digests import DigestMemo
from merge_core.operations.tensor_differences import tensor_differences
from merge_core.records import SourceCheckpoint
from merge_core.verification.verify import verify
from tests.merge_core.checkpoints import flat_file, scaled_rows
from tests.support.checkpoints import run_recipe, write_checkpoint

ROWS, COLUMNS = 96, 40
MATRIX, NORM = "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"
Pair = Callable[[Path, str, int], tuple[SourceCheckpoint, SourceCheckpoint]]


@pytest.fixture(autouse=True)
def _listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the two examples say that a format takes outside of its reader."""
    monkeypatch.setattr(checkpoints, "READERS", (scaled_rows, flat_file, safetensors_files))
    for more, names in (("*.flat", "_WEIGHTS"), ("*.flat.json", "_INDICES")):
        monkeypatch.setattr(names_of_files, names, (*getattr(names_of_files, names), more))
    known = (*names_of_files._MODEL_FILES, "*.flat", "*.flat.json")
    monkeypatch.setattr(names_of_files, "_MODEL_FILES", known)


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


def flat(here: Path, name: str, seed: int) -> tuple[SourceCheckpoint, SourceCheckpoint]:
    """A checkpoint as raw values with an index, and the same as safetensors."""
    random = torch.Generator().manual_seed(seed)
    matrix = torch.randn(ROWS, COLUMNS, generator=random).to(torch.bfloat16)
    norm = torch.randn(COLUMNS, generator=random)
    plain = write_checkpoint(here / f"{name}-plain", {MATRIX: matrix, NORM: norm})
    (here / name).mkdir()
    raw = [each.reshape(-1).view(torch.uint8).numpy().tobytes() for each in (norm, matrix)]
    (here / name / flat_file.VALUES).write_bytes(b"".join(raw))
    index = {NORM: ["F32", [COLUMNS], 0], MATRIX: ["BF16", [ROWS, COLUMNS], len(raw[0])]}
    (here / name / flat_file.INDEX).write_text(json.dumps(index))
    return describe_source(name, here / name, DigestMemo(None)), plain


@pytest.mark.parametrize("pair", [pair, flat])
@pytest.mark.parametrize("method", ["linear", "ties"])
@pytest.mark.parametrize("block", [None, 256])
def test_a_merge_has_the_bytes_of_one_of_the_plain_values(
    tmp_path: Path, pair: Pair, method: str, block: int | None
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


@pytest.mark.parametrize("pair", [pair, flat])
def test_it_is_verified_and_compared_like_any_other(tmp_path: Path, pair: Pair) -> None:
    one, plain = pair(tmp_path, "a", 0)
    other, _ = pair(tmp_path, "b", 0)
    assert not verify(one, [other]).errors
    differences = tensor_differences(one.directory, plain.directory)
    assert (differences.compared, differences.changed, differences.other_dtype) == (2, (), ())


@pytest.mark.parametrize(
    ("pair", "file"),
    [(pair, scaled_rows.SCALES), (flat, flat_file.VALUES), (flat, flat_file.INDEX)],
)
def test_its_files_are_in_its_digest(tmp_path: Path, pair: Pair, file: str) -> None:
    one, _ = pair(tmp_path, "a", 0)
    other, _ = pair(tmp_path, "b", 1)
    assert file in {each.name for each in one.files}
    changed = (other.directory / file).read_bytes()
    if file == flat_file.INDEX:
        changed = changed.replace(b"F32", b"I32")
    (one.directory / file).write_bytes(changed)
    assert describe_source("a", one.directory, DigestMemo(None)).digest != one.digest


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        (["F32", [COLUMNS], 1 << 40], "outside of"),
        (["F32", [-1], 0], "outside of"),
        (["F31", [COLUMNS], 0], "is no tensor"),
        ([], "is no tensor"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path: Path, listed: list[object], words: str) -> None:
    one, _ = flat(tmp_path, "a", 0)
    (one.directory / flat_file.INDEX).write_text(json.dumps({NORM: listed}))
    with pytest.raises(CheckpointError, match=words):
        checkpoints.open_checkpoint(one.directory)


def test_a_directory_that_no_reader_knows_is_told_by_the_last(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no safetensors weights here"):
        checkpoints.open_checkpoint(tmp_path)
