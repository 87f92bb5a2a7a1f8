"""TSV-Merge: task vectors cut to low rank, their singular vectors made orthogonal to each other."""

from __future__ import annotations

from merge_core.methods.base import Kernel, Method, TensorJob
from merge_core.methods.parts.task_vector_sum import LAMBDA
from merge_core.methods.spectral.algebra import polar_factor, singular_triples
from merge_core.methods.spectral.kernel import SpectralKernel
from merge_core.runtime.lazy_torch import torch


class TsvM(Method):
    """Merge the strongest task singular vectors, decorrelated.

    U_i*S_i*V_i^T = the top max(1, int(min(m, n) / T)) of SVD(tau_i), for T models;
    U, V = polar factors of [U_1 .. U_T], [V_1 .. V_T]; out = theta_0 + lambda * U*diag(S)*V^T.
    Tensors that are not matrices take the mean of the tau_i.
    """

    name = "tsv_m"
    summary = "add low-rank task vectors whose singular vectors are made orthogonal"
    paper = "Gargiulo et al. 2025, Task singular vectors (arXiv:2412.00081)"
    parameters = (LAMBDA,)
    base = "required"
    granularity = "matrix"

    def kernel(self, job: TensorJob) -> Kernel:
        return _TsvM(job)


class _TsvM(SpectralKernel):
    def merge(self, deltas: list[torch.Tensor]) -> torch.Tensor:
        rank = max(1, min(deltas[0].shape) // len(deltas))
        parts = [singular_triples(delta).leading(rank) for delta in deltas]
        u = polar_factor(torch.cat([part.u for part in parts], dim=1))
        vt = polar_factor(torch.cat([part.vt for part in parts], dim=0))
        return (u * torch.cat([part.s for part in parts])) @ vt
