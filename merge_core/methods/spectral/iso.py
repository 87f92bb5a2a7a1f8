"""Isotropic merging: every direction of the merged matrix counts the same."""

from __future__ import annotations

from merge_core.methods.base import Kernel, Method, TensorJob
from merge_core.methods.parameter import Parameter
from merge_core.methods.parts.task_vector_sum import LAMBDA
from merge_core.methods.spectral.algebra import frobenius, polar_factor, singular_triples
from merge_core.methods.spectral.kernel import SpectralKernel
from merge_core.reductions.sums import add_up
from merge_core.runtime.lazy_torch import torch


class IsoC(Method):
    """Task arithmetic with all singular values of the sum replaced by their mean.

    U*S*V^T = SVD of sum_i tau_i; out = theta_0 + lambda * mean(S) * U*V^T, over the values S > 0.
    Tensors that are not matrices take the mean of the tau_i.
    """

    name = "iso_c"
    summary = "sum task vectors, then make the sum's spectrum flat"
    paper = "Marczak et al. 2025, No task left behind: isotropic merging (arXiv:2502.04959)"
    parameters = (LAMBDA,)
    base = "required"
    granularity = "matrix"

    def kernel(self, job: TensorJob) -> Kernel:
        return _IsoC(job)


class IsoCts(Method):
    """Iso-C with the weakest common directions replaced by each model's own.

    Of r = min(m, n) directions, T * round((r - int(common*r)) / T) are the models' own, the other k
    common: U_c, V_c = top k of SVD(sum_i tau_i); U_i, V_i = top (r-k)/T of
    SVD(tau_i - U_c*U_c^T*tau_i); U, V = polar factors of [U_1 .. U_T U_c], [V_1 .. V_T V_c];
    out = theta_0 + lambda * mean(all their singular values) * U*V^T.
    Tensors that are not matrices take the mean of the tau_i.
    """

    name = "iso_cts"
    summary = "flat spectrum over common and each model's own directions"
    paper = "Marczak et al. 2025, No task left behind: isotropic merging (arXiv:2502.04959)"
    parameters = (
        Parameter("common", "share of the directions that is common", 0.8, low=0, high=1),
        LAMBDA,
    )
    base = "required"
    granularity = "matrix"

    def kernel(self, job: TensorJob) -> Kernel:
        return _IsoCts(job)


class _IsoC(SpectralKernel):
    def merge(self, deltas: list[torch.Tensor]) -> torch.Tensor:
        triples = singular_triples(add_up(deltas), size=frobenius(deltas))
        return triples.u @ triples.vt * _mean(triples.s)


class _IsoCts(SpectralKernel):
    def merge(self, deltas: list[torch.Tensor]) -> torch.Tensor:
        rank, count = min(deltas[0].shape), len(deltas)
        wanted = round((rank - int(self.number("common") * rank)) / count)
        own = min(wanted, rank // count)
        size = frobenius(deltas)
        common = singular_triples(add_up(deltas), size).leading(rank - own * count)
        parts = []
        for delta in deltas:
            rest = delta - common.u @ (common.u.T @ delta)
            parts.append(singular_triples(rest, size).leading(own))
        parts.append(common)
        u = polar_factor(torch.cat([part.u for part in parts], dim=1))
        vt = polar_factor(torch.cat([part.vt for part in parts], dim=0))
        return u @ vt * _mean(torch.cat([part.s for part in parts]))


def _mean(values: torch.Tensor) -> float:
    return float(values.mean()) if values.numel() else 0.0
