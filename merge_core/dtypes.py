"""Safetensors dtype codes, torch dtypes and their names, in one table."""

from __future__ import annotations

import torch

from merge_core.errors import RecipeError, did_you_mean

TORCH_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
}
"""Every dtype code that a header may name; any other code is refused."""

ITEM_SIZES: dict[str, int] = {code: dtype.itemsize for code, dtype in TORCH_DTYPES.items()}
"""Bytes of one element."""

MERGEABLE = ("F64", "F32", "F16", "BF16")
"""Codes whose values can be averaged; others are copied when all inputs agree, or refused."""

_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_ALIASES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "half": "F16", "double": "F64"}


def code_of(name: str, where: str) -> str:
    """The safetensors code of a dtype as recipes name it (`bfloat16`, `float16`, ...).

    Raises:
        RecipeError: the name is none of them.
    """
    plain = name.removeprefix("torch.")
    code = _NAMES.get(plain) or _ALIASES.get(plain)
    if code is None:
        raise RecipeError(f"unknown dtype '{name}'; {did_you_mean(plain, _NAMES)}", where=where)
    return code


def name_of(code: str) -> str:
    """torch's name of a safetensors dtype code (`BF16` -> `bfloat16`)."""
    return str(TORCH_DTYPES[code]).removeprefix("torch.")
