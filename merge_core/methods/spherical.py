"""Spherical interpolation between two checkpoints."""

from __future__ import annotations

import math

import torch

from merge_core.methods.base import Block, Kernel, Method, Sum, TensorJob
from merge_core.parameters import Parameter

_TINY_NORM = 1e-8
_NEARLY_PARALLEL = 0.9995


class Slerp(Method):
    """out = sin((1-t)*O)/sin(O) * theta_0 + sin(t*O)/sin(O) * theta_1.

    cos(O) is the cosine between the base's and the model's whole tensors. Where |cos(O)| is above
    0.9995 the arc is a line and out = (1-t)*theta_0 + t*theta_1.
    """

    name = "slerp"
    summary = "spherical interpolation from the base (t = 0) to one model (t = 1)"
    paper = "Shoemake 1985, Animating rotation with quaternion curves"
    parameters = (Parameter("t", "position between base (0) and model (1)", None, low=0, high=1),)
    base = "required"
    most_models = 1
    granularity = "statistics"

    def kernel(self, job: TensorJob) -> Kernel:
        return _Slerp(float(job.parameters["t"]))


class _Slerp(Kernel):
    passes = 1

    def __init__(self, t: float) -> None:
        self._t = t
        self._dot, self._square0, self._square1 = Sum(), Sum(), Sum()
        self._scale0, self._scale1 = 1.0 - t, t

    def observe(self, index: int, block: Block) -> None:
        base, model = block.base, block.models[0]
        assert base is not None
        self._dot.add(base * model)
        self._square0.add(base * base)
        self._square1.add(model * model)

    def conclude(self, index: int) -> None:
        cosine = self._dot.value
        for square in (self._square0.value, self._square1.value):
            norm = math.sqrt(square)
            if norm > _TINY_NORM:
                cosine /= norm
        if abs(cosine) <= _NEARLY_PARALLEL:
            angle = math.acos(cosine)
            self._scale0 = math.sin((1.0 - self._t) * angle) / math.sin(angle)
            self._scale1 = math.sin(self._t * angle) / math.sin(angle)

    def combine(self, block: Block) -> torch.Tensor:
        assert block.base is not None
        return block.base * self._scale0 + block.models[0] * self._scale1
