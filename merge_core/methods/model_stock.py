"""Model stock: how far to go from the base to the mean, read off the angle between fine-tunes."""

from __future__ import annotations

from itertools import combinations

from merge_core.methods.base import Block, Kernel, Method, TensorJob
from merge_core.methods.parameter import Parameter
from merge_core.methods.parts.gram import GramKernel, Matrix, norms
from merge_core.reductions.sums import add_up, divided
from merge_core.runtime.lazy_torch import torch

_TINY = 1e-6


class ModelStock(Method):
    """out = t * mean_i(theta_i) + (1-t) * theta_0,  t = N*cos(O) / (1 + (N-1)*cos(O)).

    cos(O) is the mean cosine between pairs of task vectors: of whole tensors, or of each row with
    `filter_wise`. Where the task vectors cancel out and t has no value, out = theta_0.
    """

    name = "model_stock"
    summary = "between base and mean, by the angle between the fine-tunes"
    paper = "Jang et al. 2024, Model Stock (arXiv:2403.19522)"
    parameters = (Parameter("filter_wise", "an angle for each row", False, kind="flag"),)
    base = "required"
    fewest_models = 2
    granularity = "rowwise"

    def kernel(self, job: TensorJob) -> Kernel:
        if job.parameters["filter_wise"]:
            return _ByRow(job.row)
        return _Whole(len(job.model_parameters), "task vectors", job.row_step)


class _Whole(GramKernel):
    def coefficients(self, gram: Matrix) -> list[float]:
        lengths = norms(gram)
        count = len(lengths)
        cosines = [
            min(1.0, max(-1.0, float(gram[i, j]) / max(lengths[i] * lengths[j], _TINY)))
            for i, j in combinations(range(count), 2)
        ]
        cosine = sum(cosines) / len(cosines)
        denominator = 1 + (count - 1) * cosine
        ratio = count * cosine / denominator if abs(denominator) >= _TINY else 0.0
        return [ratio / count] * count


class _ByRow(Kernel):
    def __init__(self, row: int) -> None:
        self._row = row

    def combine(self, block: Block) -> torch.Tensor:
        assert block.base is not None
        vectors = [vector.view(-1, self._row) for vector in block.task_vectors]
        lengths = [(vector * vector).sum(dim=1, keepdim=True).sqrt() for vector in vectors]
        count = len(vectors)
        cosine = torch.zeros_like(lengths[0])
        pairs = list(combinations(range(count), 2))
        for i, j in pairs:
            dot = (vectors[i] * vectors[j]).sum(dim=1, keepdim=True)
            cosine += (dot / (lengths[i] * lengths[j]).clamp(min=_TINY)).clamp(-1.0, 1.0)
        cosine = divided(cosine, len(pairs))
        denominator = 1 + (count - 1) * cosine
        defined = denominator.abs() >= _TINY
        ratio = torch.where(defined, count * cosine / torch.where(defined, denominator, 1.0), 0.0)
        return block.base + (add_up(vectors) * divided(ratio, count)).view(-1)
