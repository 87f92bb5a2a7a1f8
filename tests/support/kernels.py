"""One tensor through one method's kernel, without checkpoints: numpy float64 in, numpy out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from merge_core.methods import METHODS
from merge_core.methods.base import Block, TensorJob
from merge_core.methods.parameter import Scalar
from merge_core.reductions.constants import CHUNK

Array = NDArray[np.float64]


def merge_tensor(
    method: str,
    base: Array,
    models: Sequence[Array],
    *,
    each: Sequence[Mapping[str, Scalar]] | None = None,
    block_steps: int = 1,
    keys: Sequence[int] = (),
    **parameters: Scalar,
) -> Array:
    """The merged tensor, all parameters at their defaults but for those given.

    Args:
        each: parameters of each model.
        block_steps: the smallest steps that a block is made of, for methods that take blocks.
    """
    chosen = METHODS[method]
    defaults = {parameter.name: parameter.default for parameter in chosen.per_model()}
    wide = {parameter.name: parameter.default for parameter in chosen.recipe_wide()}
    job = TensorJob(
        name="layers.0.weight",
        numel=base.size,
        model_parameters=tuple({**defaults, **own} for own in each or [{}] * len(models)),
        parameters={**wide, **parameters},
        random_keys=tuple(keys),
        shape=base.shape,
    )
    kernel = chosen.kernel(job)
    step = {"matrix": base.size, "rowwise": job.row_step}.get(chosen.granularity, CHUNK)
    length = max(1, step * block_steps)
    for index in range(kernel.passes):
        for block in blocks(base, models, length):
            kernel.observe(index, block)
        kernel.conclude(index)
    parts = [kernel.combine(block).numpy() for block in blocks(base, models, length)]
    return np.concatenate([np.zeros(0), *parts]).reshape(base.shape)


def blocks(base: Array, models: Sequence[Array], length: int) -> Iterator[Block]:
    """A tensor in blocks of `length` elements."""
    flat = [torch.from_numpy(values.reshape(-1).copy()) for values in (base, *models)]
    for start in range(0, base.size, length):
        cut = [values[start : start + length] for values in flat]
        yield Block(start, cut[0], cut[1:])
