"""Writing a task vector out as a checkpoint of deltas, and applying one: not for recipes."""

from __future__ import annotations

from merge_core.methods.base import Block, Kernel, Method, TensorJob
from merge_core.methods.parameter import Parameter
from merge_core.runtime.lazy_torch import torch


class ExtractTaskVector(Method):
    """out = theta_1 - theta_0."""

    name = "extract_task_vector"
    summary = "the difference of a fine-tune and its base"
    paper = "Ilharco et al. 2023 (arXiv:2212.04089)"
    base = "required"
    most_models = 1

    def kernel(self, job: TensorJob) -> Kernel:
        return _Difference()


class ApplyTaskVector(Method):
    """out = theta_0 + scale * tau."""

    name = "apply_task_vector"
    summary = "a base plus a scaled task vector"
    paper = "Ilharco et al. 2023 (arXiv:2212.04089)"
    parameters = (Parameter("scale", "factor on the task vector", 1.0),)
    base = "required"
    most_models = 1

    def kernel(self, job: TensorJob) -> Kernel:
        return _Shift(float(job.parameters["scale"]))


class _Difference(Kernel):
    def combine(self, block: Block) -> torch.Tensor:
        return block.task_vectors[0]


class _Shift(Kernel):
    def __init__(self, scale: float) -> None:
        self._scale = scale

    def combine(self, block: Block) -> torch.Tensor:
        assert block.base is not None
        return block.base + block.models[0] * self._scale
