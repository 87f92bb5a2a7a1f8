"""Writes an adapter directory that PEFT loads, complete or not at all.

Scalings are folded into the factors: alpha equals r everywhere.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_core.checkpoints.adapters.config import CONFIG_NAME, WEIGHTS_NAME, matches
from merge_core.checkpoints.adapters.files import PREFIX, open_adapter
from merge_core.errors import NonFiniteError, OutputError
from merge_core.files.digests import DigestMemo, model_digest
from merge_core.files.durable import sync
from merge_core.files.hashing import hash_files
from merge_core.files.sha256sums import SUMS_NAME, sums_text
from merge_core.operations.adapters.records import AdapterManifest
from merge_core.operations.execute import absolute_without_dotdot, refuse_existing
from merge_core.planning.layout import lay_out
from merge_core.runtime.lazy_torch import torch
from merge_core.tensors.dtypes import code_of_torch, name_of, torch_dtype

MANIFEST_NAME = "mergeflow_adapter.json"
_ONE_FILE = 1 << 62


@dataclass(frozen=True)
class Factors:
    """What one module of a written adapter adds: B @ A, or its transpose for an embedding."""

    module: str
    a: torch.Tensor
    """(r, in), float64."""
    b: torch.Tensor
    """(out, r), float64."""
    embedding: bool = False

    @property
    def rank(self) -> int:
        """Rows of A, columns of B."""
        return self.a.shape[0]


@dataclass(frozen=True)
class Stored:
    """A tensor as it goes to disk."""

    dtype: str
    shape: tuple[int, ...]
    values: torch.Tensor


def write_adapter(
    out: Path,
    factors: Sequence[Factors],
    body: Mapping[str, Any],
    *,
    dtype: str,
    card: str,
    settings: Mapping[str, Any],
    replaced: Mapping[str, torch.Tensor] | None = None,
) -> AdapterManifest:
    """Write factors and full tensors as an adapter, with its card, manifest and SHA256SUMS.

    Args:
        body: the fields of the manifest that only the caller knows.
        dtype: safetensors code of the dtype of the factors.
        settings: what of adapter_config.json does not follow from the factors.
        replaced: tensors saved in full, by their name in the base, in their dtype.

    Raises:
        OutputError: the place is taken or cannot be written.
        NonFiniteError: a factor has values that the dtype cannot hold.
    """
    refuse_existing(out)
    tensors = _stored(factors, dtype) | {
        PREFIX + name: Stored(code_of_torch(values.dtype), tuple(values.shape), values)
        for name, values in (replaced or {}).items()
    }
    body = dict(body) | {
        "parameters": sum(math.prod(tensor.shape) for tensor in tensors.values()),
        "dtype": name_of(dtype),
    }
    out = absolute_without_dotdot(out)
    working = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        working = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        _write_tensors(working / WEIGHTS_NAME, tensors)
        config = _config(factors, settings)
        (working / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        (working / "README.md").write_text(card, "utf-8")
        open_adapter(working)
        manifest = _seal(working, out, body)
        for path in (*sorted(working.iterdir()), working):
            sync(path)
        working.chmod(0o755)
        refuse_existing(out)
        working.rename(out)
        sync(out.parent)
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror}", where=str(out)) from error
    finally:
        if working is not None:
            shutil.rmtree(working, ignore_errors=True)
    return manifest


def _stored(factors: Sequence[Factors], dtype: str) -> dict[str, Stored]:
    tensors = {}
    for each in factors:
        for letter, values in (("A", each.a), ("B", each.b)):
            rounded = values.to(torch_dtype(dtype))
            if not bool(torch.isfinite(rounded).all()):
                raise NonFiniteError(
                    f"a factor of {each.module} has values up to {float(values.abs().max()):.3g},"
                    f" which {name_of(dtype)} cannot hold",
                    mend="store the adapter as float32 or bfloat16",
                )
            kind = f"lora_embedding_{letter}" if each.embedding else f"lora_{letter}.weight"
            tensors[f"{PREFIX}{each.module}.{kind}"] = Stored(dtype, tuple(values.shape), rounded)
    return tensors


def _write_tensors(path: Path, tensors: Mapping[str, Stored]) -> None:
    slots, (shard,) = lay_out(
        [(name, tensors[name].dtype, tensors[name].shape) for name in sorted(tensors)], _ONE_FILE
    )
    with path.open("wb") as file:
        file.write(shard.header)
        for slot in slots:
            file.write(tensors[slot.name].values.contiguous().view(torch.uint8).numpy().data)


def _config(factors: Sequence[Factors], settings: Mapping[str, Any]) -> dict[str, Any]:
    """adapter_config.json. Where ranks differ, the most common one is r, the others are named."""
    ranks = [each.rank for each in factors]
    usual = max(sorted(set(ranks)), key=ranks.count, default=1)
    modules = [each.module for each in factors]
    pattern = {_pattern(each.module, modules): each.rank for each in factors if each.rank != usual}
    return {
        "peft_type": "LORA",
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "target_modules": modules,
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
        **settings,
    }


def _pattern(module: str, modules: Sequence[str]) -> str:
    """The module's name, as a pattern that matches no other module."""
    others = [other for other in modules if other != module]
    return f"^{module}" if any(matches(module, other) for other in others) else module


def _seal(working: Path, out: Path, body: Mapping[str, Any]) -> AdapterManifest:
    files = hash_files(working, sorted(working.iterdir()), DigestMemo(None), "hash")
    described = {
        "digest": model_digest(files),
        **body,
        "files": [file.model_dump() for file in files],
    }
    text = json.dumps(described, indent=2) + "\n"
    (working / MANIFEST_NAME).write_text(text, "utf-8")
    sums = {file.name: file.sha256 for file in files}
    sums[MANIFEST_NAME] = hashlib.sha256(text.encode()).hexdigest()
    (working / SUMS_NAME).write_text(sums_text(sums), "utf-8")
    return AdapterManifest.model_validate({**described, "path": str(out)})
