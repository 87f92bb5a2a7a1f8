"""WUDI: the task vector that interferes least with what each model does to its own inputs."""

from __future__ import annotations

from merge_core.methods.base import Kernel, Method, TensorJob
from merge_core.methods.parameter import Parameter
from merge_core.methods.parts.task_vector_sum import LAMBDA
from merge_core.methods.spectral.kernel import SpectralKernel
from merge_core.reductions.sums import add_up, divided
from merge_core.runtime.lazy_torch import torch

_DECAY_MEAN, _DECAY_SQUARE, _ADAM_EPS = 0.9, 0.999, 1e-8


class Wudi(Method):
    """tau minimises sum_i |(tau - tau_i) * tau_i^T|^2 / |tau_i|^2; out = theta_0 + lambda * tau.

    closed: with G_i = tau_i^T*tau_i / |tau_i|^2, G = sum_i G_i, the mean t of the tau_i and
    e = ridge * trace(G)/n: tau = t + sum_i (tau_i - t)*G_i * (G + e*I)^-1, which pulls towards t
    where the task vectors leave tau open. adam: the paper's descent from sum_i tau_i.
    Tensors that are not matrices take the mean of the tau_i.
    """

    name = "wudi"
    summary = "minimise interference with every task vector's own directions"
    paper = "Cheng et al. 2025, Whoever started the interference should end it (arXiv:2503.08099)"
    parameters = (
        Parameter(
            "solver",
            "exact solution, or the paper's descent",
            "closed",
            kind="word",
            choices=("closed", "adam"),
        ),
        Parameter("ridge", "pull towards the mean, for closed", 1e-6, low=1e-9, high=1),
        Parameter("learning_rate", "step of adam", 1e-5, low=0),
        Parameter("steps", "steps of adam", 300.0, low=0, high=100_000),
        LAMBDA,
    )
    base = "required"
    granularity = "matrix"

    def kernel(self, job: TensorJob) -> Kernel:
        return _Wudi(job)


class _Wudi(SpectralKernel):
    def merge(self, deltas: list[torch.Tensor]) -> torch.Tensor:
        changed = [delta for delta in deltas if bool(delta.any())]
        if not changed:
            return deltas[0]
        if self._job.parameters["solver"] == "closed":
            mean = divided(add_up(deltas), len(deltas))
            level = self.number("ridge") * len(changed) / mean.shape[1]
            return mean + _Interference(changed, mean).least(level)
        return self._descended(changed, add_up(deltas))

    def _descended(self, changed: list[torch.Tensor], start: torch.Tensor) -> torch.Tensor:
        interference = _Interference(changed, start)
        moved, mean, square = (torch.zeros_like(start) for _ in range(3))
        for step in range(1, int(self.number("steps")) + 1):
            gradient = interference.gradient(moved)
            mean = _DECAY_MEAN * mean + (1 - _DECAY_MEAN) * gradient
            square = _DECAY_SQUARE * square + (1 - _DECAY_SQUARE) * gradient * gradient
            size = divided(square, 1 - _DECAY_SQUARE**step).sqrt() + _ADAM_EPS
            moved -= self.number("learning_rate") * divided(mean, 1 - _DECAY_MEAN**step) / size
        return start + moved


class _Interference:
    """The objective at start + moved, m x n, as |moved * A^T - B|^2 with A of T*m rows.

    Its normal equation moved * A^T*A = B*A takes the n x n matrix A^T*A, or where A has fewer than
    n rows, A*A^T.
    """

    def __init__(self, changed: list[torch.Tensor], start: torch.Tensor) -> None:
        units = [delta / torch.linalg.matrix_norm(delta) for delta in changed]
        self._rows: torch.Tensor | None = None
        if len(units) * start.shape[0] < start.shape[1]:
            self._rows = torch.cat(units, dim=0)
            pulls = [(d - start) @ unit.T for d, unit in zip(changed, units, strict=True)]
            self._gram = self._rows @ self._rows.T
            self._pull = torch.cat(pulls, dim=1)
        else:
            grams = [unit.T @ unit for unit in units]
            pulls = [(d - start) @ gram for d, gram in zip(changed, grams, strict=True)]
            self._gram = add_up(grams)
            self._pull = add_up(pulls)

    def gradient(self, moved: torch.Tensor) -> torch.Tensor:
        """The objective's slope."""
        if self._rows is None:
            return 2.0 * (moved @ self._gram - self._pull)
        return 2.0 * ((moved @ self._rows.T - self._pull) @ self._rows)

    def least(self, level: float) -> torch.Tensor:
        """Where the objective plus level * |moved|^2 is least."""
        gram = self._gram + level * torch.eye(len(self._gram)).to(self._gram)
        solution = torch.cholesky_solve(self._pull.T, torch.linalg.cholesky(gram)).T
        return solution if self._rows is None else solution @ self._rows
