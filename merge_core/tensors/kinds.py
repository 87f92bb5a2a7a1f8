"""What a tensor is, by dtype, shape and name: weights, a buffer, or packed words of quantised ones.

Weights are merged. Buffers (positions, masks, counters) have no mean and are taken over. Packed
words look like integers and are neither: a matrix of integers is no buffer.
"""

from __future__ import annotations

import math
import re
from typing import Literal

from merge_core.tensors.dtypes import MERGEABLE

Kind = Literal["floating point", "integers", "flags", "8-bit floating point"]

_FLOAT8 = ("F8_E4M3", "F8_E5M2")
_OFTEN_PACKED = ("I8", "U8", *_FLOAT8)
_PACKED_NAME = re.compile(
    r"\.(qweight|qzeros|g_idx|weight_packed|weight_scale(_inv)?|weight_zero_point|SCB|absmax"
    r"|quant_map|quant_state\..*)$"
)
_INDEX_NAME = re.compile(
    r"(^|[._])(ids?|idx|index|mask|masks|bias|positions?|buckets?|offsets?)$", re.I
)
"""Last words of names of honest matrices of integers: `relative_position_index`, masks."""
_INDEX_DTYPES = ("I64", "I32")
_LONG = 1 << 16
_COMPUTED_BUFFER = re.compile(
    r"(^|\.)((original_)?inv_freq|masked_bias|cos_cached|sin_cached|position_ids"
    r"|num_batches_tracked)$"
)
_MASK_NAME = re.compile(r"(^|\.)(attn|attention|self_attn|attn\.attention)\.(bias|mask)$")


NOT_GATHERED = "while each process of the training held a part of it (DeepSpeed ZeRO-3, FSDP)"
GATHER = (
    "save it again with the parts gathered: stage3_gather_16bit_weights_on_model_save: true, or"
    " zero_to_fp32.py in the training's checkpoint; with FSDP a full state dict"
)
"""What to do about a tensor that was saved as one process held it."""


def is_ungathered(name: str, dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor was saved as one process of a training held it: as nothing, or flat.

    A buffer may be empty, a weight may not.
    """
    is_weight = name.endswith((".weight", ".bias")) and dtype in MERGEABLE
    return name.endswith("_flat_param") or (is_weight and 0 in shape)


def kind_of_dtype(code: str) -> Kind:
    """What a safetensors dtype code can hold."""
    if code in MERGEABLE:
        return "floating point"
    if code == "BOOL":
        return "flags"
    return "8-bit floating point" if code in _FLOAT8 else "integers"


def is_packed(name: str, dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is of a quantised layout: its values mean nothing without others.

    Words of any width, under any name: matrices of integers that are no index or mask, long runs of
    integers, 8-bit values, and what quantisers call by names of their own.
    """
    if dtype in MERGEABLE or dtype == "BOOL":
        return bool(_PACKED_NAME.search(name))
    if _is_mask(dtype, shape):
        return False
    if dtype in _OFTEN_PACKED or _PACKED_NAME.search(name):
        return True
    if sum(extent > 1 for extent in shape) > 1:
        return not (dtype in _INDEX_DTYPES and _INDEX_NAME.search(name))
    return dtype != "I64" and math.prod(shape) > _LONG


def is_computed_buffer(name: str) -> bool:
    """Whether a tensor is a buffer in floating point: what the code computes and no one trains."""
    return bool(_COMPUTED_BUFFER.search(name))


def is_derived_buffer(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a buffer that any checkpoint of its model may lack: the code computes it
    again. A causal mask is one, whatever numbers it is kept in."""
    return is_computed_buffer(name) or (
        len(shape) == 4
        and shape[:2] == (1, 1)
        and shape[2] == shape[3]
        and bool(_MASK_NAME.search(name))
    )


def _is_mask(dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a causal mask, which GPT-2 and its kin once kept as a buffer of bytes."""
    return dtype == "U8" and len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
