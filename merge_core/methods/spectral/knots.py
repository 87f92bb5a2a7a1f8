"""KnOTS: merge task vectors in a basis that all models share."""

from __future__ import annotations

from merge_core.methods.base import Kernel, Method, TensorJob
from merge_core.methods.parameter import Parameter
from merge_core.methods.parts.sparsify import KeepAll, KeepLargest, KeepRandom, Sparsifier
from merge_core.methods.parts.task_vector_sum import DENSITY, LAMBDA
from merge_core.methods.spectral.algebra import singular_triples
from merge_core.methods.spectral.kernel import SpectralKernel
from merge_core.reductions.sums import add_up, divided
from merge_core.runtime.lazy_torch import torch

_ROUNDING = 1e-12
"""What is left of a sum of parts that cancel, relative to them: a sign election takes it for 0."""


class Knots(Method):
    """Align task vectors by one SVD, merge their parts in its basis, map the result back.

    U*S*[V_1^T .. V_T^T] = SVD of [tau_1 .. tau_T], S > threshold; C_i = S*V_i^T, of which `combine`
    makes one C; out = theta_0 + lambda * U*C. linear: sum_i C_i. ties: the largest entries of each
    C_i by density, an elected sign (+ where the sum is 0, with the largest entry of each column of
    U positive), the mean of those that agree. dare: entries kept at random by density and divided
    by it, summed. dare_ties: the same, merged as by ties without the trimming.
    Tensors that are not matrices take the mean of the tau_i.
    """

    name = "knots"
    summary = "merge task vectors in the basis of their joint SVD, by TIES, DARE or a sum"
    paper = "Stoica et al. 2024, Model merging with SVD to tie the KnOTS (arXiv:2410.19735)"
    parameters = (
        Parameter(
            "combine",
            "how the aligned parts become one",
            "ties",
            kind="word",
            choices=("ties", "dare", "dare_ties", "linear"),
        ),
        DENSITY,
        Parameter("threshold", "singular values up to this are left out", 1e-5, low=0),
        LAMBDA,
    )
    base = "required"
    granularity = "matrix"
    random = True

    def kernel(self, job: TensorJob) -> Kernel:
        return _Knots(job)


class _Knots(SpectralKernel):
    @property
    def _combine(self) -> str:
        return str(self._job.parameters["combine"])

    def merge(self, deltas: list[torch.Tensor]) -> torch.Tensor:
        basis = self._basis(deltas)
        kept = [self._sparse(index, basis.T @ delta) for index, delta in enumerate(deltas)]
        together = _mean_of_agreeing(kept) if self._combine.endswith("ties") else add_up(kept)
        return basis @ together

    def _basis(self, deltas: list[torch.Tensor]) -> torch.Tensor:
        """U; then S*V_i^T is U^T*tau_i, with exact zeros where the task vector is 0."""
        triples = singular_triples(torch.cat(deltas, dim=1))
        return triples.leading(int((triples.s > self.number("threshold")).sum())).u

    def _sparse(self, index: int, part: torch.Tensor) -> torch.Tensor:
        flat = part.reshape(-1)
        density = self._job.numbers("density")[index]
        keeper = self._keeper(index, density, flat.numel())
        for number in range(keeper.passes):
            keeper.observe(number, flat, 0)
            keeper.conclude(number)
        kept = keeper.apply(flat, 0)
        if self._combine.startswith("dare") and density > 0:
            kept = divided(kept, density)
        return kept.view(part.shape)

    def _keeper(self, index: int, density: float, numel: int) -> Sparsifier:
        if self._combine == "linear" or density >= 1:
            return KeepAll()
        if self._combine == "ties":
            return KeepLargest(density, numel)
        return KeepRandom(density, self._job.random_keys[index])


def _mean_of_agreeing(parts: list[torch.Tensor]) -> torch.Tensor:
    positive = add_up(parts) >= -_ROUNDING * add_up([part.abs() for part in parts])
    total, count = torch.zeros_like(parts[0]), torch.zeros_like(parts[0])
    for part in parts:
        agree = torch.where(positive, part > 0, part < 0)
        total += part * agree
        count += agree
    return total / count.clamp(min=1.0)
