"""Merge checkpoints of different vocabularies with mergekit and keep each token's rows.

Runs in an environment of its own (see README.md): mergekit is a peer to compare with, not a
dependency. Usage: python benchmarks/parity/make_expected_vocabularies.py
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.conformance.vocabulary_cases import CASES, write_vocabulary_checkpoints  # noqa: E402

EXPECTED = ROOT / "tests" / "conformance" / "mergekit_expected" / "vocabularies.safetensors"


def main() -> None:
    """Write two matrices for each recipe, embeddings and head: first the tokens' rows in order of
    the tokens' texts, which the metadata lists, then the rows beyond the tokens.
    """
    torch.set_num_threads(1)
    options = MergeOptions(write_model_card=False, device="cpu", quiet=True, num_threads=1)
    expected, tokens = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        inputs = write_vocabulary_checkpoints(Path(scratch))
        os.chdir(scratch)  # a model's reference is its directory's name
        for name, recipe in CASES.items():
            out = Path(scratch) / f"out-{name}"
            run_merge(MergeConfiguration.model_validate(recipe), str(out), options)
            weights = load_file(out / "model.safetensors")
            ids = AutoTokenizer.from_pretrained(out).get_vocab()
            tokens[name] = sorted(ids)
            rows = len(weights["lm_head.weight"])
            order = [ids[token] for token in tokens[name]] + list(range(len(ids), rows))
            for tensor in ("model.embed_tokens.weight", "lm_head.weight"):
                expected[f"{name}: {tensor}"] = weights[tensor][order].contiguous()
    metadata = {
        "inputs": inputs,
        "recipes": hashlib.sha256(json.dumps(CASES).encode()).hexdigest(),
        "tokens": json.dumps(tokens),
        "made_with": f"mergekit {version('mergekit')}, torch {torch.__version__}",
    }
    save_file(expected, EXPECTED, metadata=metadata)
    EXPECTED.chmod(0o644)
    print(f"{len(CASES)} recipes, {EXPECTED.stat().st_size} bytes: {EXPECTED.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
