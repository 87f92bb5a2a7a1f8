"""Whether the Triton kernels can be trusted on a device: they are tried before they are used.

A kernel is compiled for the device and driver that it meets, which no test elsewhere has seen.
Triton needs a C compiler besides. So the first worker that could use the kernels lets them merge
some thousand awkward values, and compares what they give with torch's expressions, bit by bit, on
that device. Where anything fails or differs, merges go by torch's expressions: slower, and right.
"""

from __future__ import annotations

import threading
import warnings
from importlib.util import find_spec

from merge_core.dtypes import torch_dtype
from merge_core.gpu.computation import Combining, Formula
from merge_core.lazy_torch import torch
from merge_core.rounding import round_once

_COUNT = 5000
_FORMULAS = (
    Formula("weighted_sum", 2, (0.3, 0.4, 0.7), True),
    Formula("weighted_sum", 3, (1 / 3, 1 / 3, 1 / 3, 1.0), False),
    Formula("task_vector_sum", 2, (0.6, -0.3, 0.3, 0.7), True),
    Formula("task_vector_sum", 1, (0.1, 1.0, 1.0), False),
)
_lock = threading.Lock()
_found: dict[torch.device, bool] = {}


def can_use_kernels(device: torch.device) -> bool:
    """Whether the kernels give the right bits on this device; found out once for a process."""
    with _lock:
        if device not in _found:
            _found[device] = find_spec("triton") is not None and _are_right(device)
        return _found[device]


def _are_right(device: torch.device) -> bool:
    try:
        wrong = [name for name in ("BF16", "F16", "F32") if not agrees(device, name)]
    except Exception as error:  # of Triton, its compiler, the driver: whatever it is
        wrong = [f"{type(error).__name__}: {error}"]
    if wrong:
        warnings.warn(
            f"Triton's kernels cannot be used on {device} ({wrong[0]}): merging without them",
            stacklevel=2,
        )
    return not wrong


def agrees(device: torch.device, code: str) -> bool:
    """Whether the kernels give what torch's expressions give, for one stored dtype."""
    dtype = torch_dtype(code)
    for formula in _FORMULAS:
        stored = awkward_values(formula.inputs, dtype).to(device)
        merged, broken = Combining(formula, code, code, device)(stored)
        expected = round_once(by_torch(formula, stored.to(torch.float64)), dtype)
        finite = bool(torch.isfinite(expected).all())
        if bool(broken) == finite or not torch.equal(_bits(merged), _bits(expected)):
            return False
    return True


def by_torch(formula: Formula, values: torch.Tensor) -> torch.Tensor:
    """What a kernel computes, as torch's expressions (float64)."""
    models, numbers = values, formula.numbers
    if formula.kernel == "task_vector_sum":
        models = values[1:] - values[0]
    total = models[0] * numbers[0]
    for model, number in zip(models[1:], numbers[1:], strict=False):
        total += model * number
    if formula.divided:
        total /= numbers[formula.models]
    if formula.kernel == "task_vector_sum":
        return values[0] + total * numbers[formula.models + 1]
    return total


def awkward_values(inputs: int, dtype: torch.dtype) -> torch.Tensor:
    """Finite values of all sizes, on the CPU: subnormal ones, zeros of both signs, neighbours of
    each other, none so large that a sum of them overflows."""
    made = torch.Generator().manual_seed(1)
    size = torch.finfo(dtype)
    exponents = torch.randint(-40, 12, (_COUNT,), generator=made).to(torch.float64)
    common = torch.randn(_COUNT, generator=made, dtype=torch.float64) * torch.exp2(exponents)
    common = common.clamp(-size.max / 8, size.max / 8)
    common[:200] = torch.randn(200, generator=made, dtype=torch.float64) * size.tiny
    common[200:300] = 0.0
    common[300:400] = -0.0
    change = torch.randn(inputs, _COUNT, generator=made, dtype=torch.float64)
    change[:, ::3] *= 0.01
    change[:, 1::3] = torch.randint(-2, 3, change[:, 1::3].shape, generator=made) * size.eps
    return (common * (1 + change * 0.1)).to(dtype)


def _bits(values: torch.Tensor) -> torch.Tensor:
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    return values.view(kind)
