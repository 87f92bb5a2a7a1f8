"""Merges of different vocabularies give every token the row that mergekit 0.1.5 gives it.

The expected rows are mergekit's own results on the same checkpoints (benchmarks/parity says how
they are made). They are compared token by token: mergekit numbers the tokens of a union in no fixed
order. Every value must lie within 2e-6 of mergekit's, or within 4e-7 of the table's largest value.

Left out, because mergekit 0.1.5 fails on it: `source: {kind: zero}`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from merge_core.records import SourceCheckpoint
from tests.conformance.vocabulary_cases import CASES, MODELS, write_vocabulary_checkpoints
from tests.support.checkpoints import run_recipe
from tests.support.tiny_llama import described

EXPECTED = Path(__file__).parent / "mergekit_expected" / "vocabularies.safetensors"
RELATIVE, OF_LARGEST = 2e-6, 4e-7
Inputs = tuple[str, dict[str, SourceCheckpoint]]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    root = tmp_path_factory.mktemp("vocabularies")
    digest = write_vocabulary_checkpoints(root)
    return digest, {name: described(root / name) for name in MODELS}


def test_the_expected_rows_were_made_from_these_checkpoints_and_recipes(inputs: Inputs) -> None:
    with safe_open(EXPECTED, "pt") as file:
        metadata = file.metadata()
    again = "run benchmarks/parity/make_expected_vocabularies.py again"
    assert metadata["inputs"] == inputs[0], again
    assert metadata["recipes"] == hashlib.sha256(json.dumps(CASES).encode()).hexdigest(), again
    assert metadata["made_with"].startswith("mergekit 0.1.5")


@pytest.mark.parametrize("case", sorted(CASES))
def test_every_token_has_the_row_that_mergekit_gives_it(
    case: str, inputs: Inputs, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run_recipe(CASES[case], inputs[1], out, threads=1)
    merged = load_file(out / "model.safetensors")
    ids = ids_of(out)
    with safe_open(EXPECTED, "pt") as file:
        tokens = json.loads(file.metadata()["tokens"])[case]
        tables = {name: file.get_tensor(f"{case}: {name}") for name in TABLES}
    assert sorted(ids) == tokens
    for name, theirs in tables.items():
        rows = len(theirs)
        order = [ids[token] for token in tokens] + list(range(len(tokens), rows))
        ours = merged[name].double()[order]
        assert len(merged[name]) == rows
        error, size = (ours - theirs.double()).abs(), theirs.double().abs()
        assert bool((error <= torch.maximum(RELATIVE * size, OF_LARGEST * size.max())).all())


TABLES = ("model.embed_tokens.weight", "lm_head.weight")


def ids_of(directory: Path) -> dict[str, int]:
    """The ids of a tokenizer, added tokens included, as its file has them."""
    content = json.loads((directory / "tokenizer.json").read_text())
    added = {token["content"]: token["id"] for token in content["added_tokens"]}
    return {**content["model"]["vocab"], **added}
