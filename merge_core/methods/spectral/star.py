"""STAR: cut each task vector's spectrum, and give what is left the size of the whole."""

from __future__ import annotations

from merge_core.methods.base import Kernel, Method, TensorJob
from merge_core.methods.parameter import Parameter
from merge_core.methods.parts.task_vector_sum import LAMBDA
from merge_core.methods.spectral.algebra import singular_triples
from merge_core.methods.spectral.kernel import SpectralKernel
from merge_core.reductions.sums import add_up, divided
from merge_core.runtime.lazy_torch import torch


class Star(Method):
    """Spectral truncation and rescale, then the average.

    Of each tau_i = U*S*V^T keep the fewest leading triples whose S add up to eta * sum(S), and
    scale their S by sum(S) / sum(kept S); out = theta_0 + lambda * mean_i of what is left.
    Tensors that are not matrices take the mean of the tau_i.
    """

    name = "star"
    summary = "average task vectors cut to their leading singular values, rescaled"
    paper = "Lee et al. 2025, STAR: spectral truncation and rescale (arXiv:2502.10339)"
    parameters = (
        Parameter("eta", "share of the sum of singular values that is kept", 0.4, low=0, high=1),
        LAMBDA,
    )
    base = "required"
    granularity = "matrix"

    def kernel(self, job: TensorJob) -> Kernel:
        return _Star(job)


class _Star(SpectralKernel):
    def merge(self, deltas: list[torch.Tensor]) -> torch.Tensor:
        return divided(add_up([self._truncated(delta) for delta in deltas]), len(deltas))

    def _truncated(self, delta: torch.Tensor) -> torch.Tensor:
        triples = singular_triples(delta)
        if not triples.s.numel():
            return torch.zeros_like(delta)
        sums = triples.s.cumsum(0)
        kept = int((sums < self.number("eta") * sums[-1]).sum()) + 1
        leading = triples.leading(kept)
        return leading.matrix() * float(sums[-1] / sums[kept - 1])
