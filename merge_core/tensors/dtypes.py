"""Safetensors dtype codes, torch dtypes and their names, in one table."""

from __future__ import annotations

from merge_core.errors import RecipeError, did_you_mean
from merge_core.runtime.lazy_torch import torch

DTYPE_NAMES: dict[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
}
"""Every dtype code that a header may name, with torch's name; any other code is refused."""

ITEM_SIZES: dict[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "U32": 4,
    "U64": 8,
}
"""Bytes of one element."""

MERGEABLE = ("F64", "F32", "F16", "BF16")
"""Codes whose values can be averaged; others are copied when all inputs agree, or refused."""

_CODES = {DTYPE_NAMES[code]: code for code in MERGEABLE}
_ALIASES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "half": "F16", "double": "F64"}


def code_of(name: str, where: str) -> str:
    """The safetensors code of a dtype as recipes name it (`bfloat16`, `float16`, ...).

    Raises:
        RecipeError: the name is none of them.
    """
    plain = name.removeprefix("torch.")
    code = _CODES.get(plain) or _ALIASES.get(plain)
    if code is None:
        raise RecipeError(f"unknown dtype '{name}'; {did_you_mean(plain, _CODES)}", where=where)
    return code


def name_of(code: str) -> str:
    """torch's name of a safetensors dtype code (`BF16` -> `bfloat16`)."""
    return DTYPE_NAMES[code]


def code_of_torch(dtype: torch.dtype) -> str:
    """The safetensors code of a torch dtype, the reverse of `torch_dtype`."""
    return next(code for code in DTYPE_NAMES if torch_dtype(code) == dtype)


def torch_dtype(code: str) -> torch.dtype:
    """torch's dtype of a safetensors dtype code."""
    dtype: torch.dtype = getattr(torch, DTYPE_NAMES[code])
    return dtype
