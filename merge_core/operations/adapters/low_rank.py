"""Low-rank algebra in float64: cutting a product to a rank, and the space that several share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from merge_core.runtime.lazy_torch import torch

Pair: TypeAlias = "tuple[torch.Tensor, torch.Tensor]"
"""B (out, r) and A (r, in) of a product B @ A."""


@dataclass(frozen=True)
class Cut:
    """A matrix as B @ A with at most the wanted rank, and what that left out."""

    b: torch.Tensor
    a: torch.Tensor
    norm: float
    """Frobenius norm of the whole matrix."""
    lost: float
    """Frobenius norm of what was cut off."""


@dataclass(frozen=True)
class CoreSpace:
    """The rows and columns that several low-rank products share.

    Every product of the pairs is left @ core @ right, exactly: left spans all the Bs, right all the
    As. (Panariello et al. 2025, Core Space, arXiv:2509.17786.)
    """

    left: torch.Tensor
    """(out, k), orthonormal columns: left singular vectors of the Bs side by side."""
    right: torch.Tensor
    """(l, in), orthonormal rows: right singular vectors of the As on top of each other."""

    def core(self, pair: Pair) -> torch.Tensor:
        """The (k, l) core of one product."""
        b, a = pair
        return (self.left.T @ b) @ (a @ self.right.T)

    def cut(self, core: torch.Tensor, rank: int | None) -> Cut:
        """The product that a core stands for. The bases are orthonormal, so no SVD of it is needed
        but the core's own."""
        small = cut(core, rank)
        return Cut(self.left @ small.b, small.a @ self.right, small.norm, small.lost)


def core_space(pairs: Sequence[Pair]) -> CoreSpace:
    """The common space of several products of one shape."""
    left, _, _ = torch.linalg.svd(torch.cat([b for b, _ in pairs], dim=1), full_matrices=False)
    _, _, right = torch.linalg.svd(torch.cat([a for _, a in pairs], dim=0), full_matrices=False)
    return CoreSpace(left, right)


def cut(matrix: torch.Tensor, rank: int | None) -> Cut:
    """The nearest matrix of a rank (Eckart and Young), the singular values' roots in both factors.

    Singular values that are zero up to rounding are left out, but for the first.
    """
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    noise = float(s[0]) * torch.finfo(s.dtype).eps * max(matrix.shape)
    full = max(1, int((s > noise).sum()))
    kept = min(full, rank) if rank else full
    roots = s[:kept].sqrt()
    norm, lost = float(s.square().sum().sqrt()), float(s[kept:].square().sum().sqrt())
    return Cut(u[:, :kept] * roots, roots[:, None] * vh[:kept], norm, lost)
