"""Merge the parity recipes with mergekit and keep the results as expected values.

Runs in an environment of its own (see README.md): mergekit is a peer to compare with, not a
dependency. Usage: python benchmarks/parity/make_expected.py
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

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.conformance.parity_cases import CASES, write_parity_checkpoints  # noqa: E402

EXPECTED = ROOT / "tests" / "conformance" / "mergekit_expected" / "expected.safetensors"


def main() -> None:
    """Write one float32 vector for each recipe: all merged tensors, flat, in order of name."""
    torch.set_num_threads(1)
    options = MergeOptions(
        copy_tokenizer=False, write_model_card=False, device="cpu", quiet=True, num_threads=1
    )
    expected = {}
    with tempfile.TemporaryDirectory() as scratch:
        inputs = write_parity_checkpoints(Path(scratch))
        os.chdir(scratch)  # a model's reference is its directory's name
        for name, recipe in CASES.items():
            out = Path(scratch) / f"out-{name}"
            run_merge(MergeConfiguration.model_validate(recipe), str(out), options)
            expected[name] = _flat(out)
    metadata = {
        "inputs": inputs,
        "recipes": hashlib.sha256(json.dumps(CASES).encode()).hexdigest(),
        "made_with": f"mergekit {version('mergekit')}, torch {torch.__version__}",
    }
    EXPECTED.parent.mkdir(exist_ok=True)
    save_file(expected, EXPECTED, metadata=metadata)
    EXPECTED.chmod(0o644)
    size = EXPECTED.stat().st_size
    print(f"{len(expected)} recipes, {size} bytes: {EXPECTED.relative_to(ROOT)}")


def _flat(directory: Path) -> torch.Tensor:
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(shard)
    if any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        raise SystemExit(f"{directory}: mergekit did not store float32")
    return torch.cat([tensors[name].reshape(-1) for name in sorted(tensors)])


if __name__ == "__main__":
    main()
