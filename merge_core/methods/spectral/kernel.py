"""What the spectral methods share: task vectors as whole matrices, a mean for everything else."""

from __future__ import annotations

from abc import abstractmethod

from merge_core.methods.base import Block, Kernel, TensorJob
from merge_core.methods.spectral.algebra import is_matrix
from merge_core.reductions.sums import add_up, divided
from merge_core.runtime.lazy_torch import torch


class SpectralKernel(Kernel):
    """Adds `merge(task vectors)` times `lambda` to the base; off matrices their mean."""

    def __init__(self, job: TensorJob) -> None:
        self._job = job

    def number(self, name: str) -> float:
        """A setting of the method that is a number."""
        return float(self._job.parameters[name])

    @abstractmethod
    def merge(self, deltas: list[torch.Tensor]) -> torch.Tensor:
        """The merged task vector of one matrix, from each model's."""

    def combine(self, block: Block) -> torch.Tensor:
        assert block.base is not None
        deltas = block.task_vectors
        if is_matrix(self._job.shape):
            merged = self.merge([delta.view(self._job.shape) for delta in deltas]).reshape(-1)
        else:
            merged = divided(add_up(deltas), len(deltas))
        return block.base + merged * self.number("lambda")
