"""Singular value decompositions that determine their result: what rounding made up is left out.

A direction of singular value 0 is any direction that is left over; to use it would add noise to a
merge. So triples of value 0 are dropped, and a polar factor is a partial isometry where its matrix
lacks rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from merge_core.runtime.lazy_torch import torch

PARALLEL = 1e-8
"""Unit vectors this near to dependent are: crowded singular vectors are known no better."""


@dataclass(frozen=True)
class Triples:
    """u (m x k), s (k, falling) and vt (k x n) of a matrix u @ diag(s) @ vt."""

    u: torch.Tensor
    s: torch.Tensor
    vt: torch.Tensor

    def leading(self, count: int) -> Triples:
        """The first `count`, or all there are."""
        return Triples(self.u[:, :count], self.s[:count], self.vt[:count])

    def matrix(self) -> torch.Tensor:
        """Their product."""
        return (self.u * self.s) @ self.vt


def is_matrix(shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape has a spectrum: two extents, both above 1."""
    return len(shape) == 2 and min(shape) > 1


def singular_triples(matrix: torch.Tensor, size: float | None = None) -> Triples:
    """The thin SVD without the triples of value 0; the largest entry of each u is positive.

    Args:
        size: norm of what the matrix was computed from, whose rounding counts as 0; by default its
            own largest singular value.
    """
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False, driver=_driver(matrix))
    scale = float(s[0]) if size is None else size
    rounding = scale * max(matrix.shape) * torch.finfo(matrix.dtype).eps
    return _with_signs(Triples(u, s, vt).leading(int((s > rounding).sum())))


def polar_factor(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with orthonormal columns (or rows): u @ vt of its SVD.

    Where columns of about unit length are dependent, a partial isometry of the same range.
    """
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False, driver=_driver(matrix))
    triples = Triples(u, s, vt).leading(int((s > PARALLEL).sum()))
    return triples.u @ triples.vt


def frobenius(matrices: Sequence[torch.Tensor]) -> float:
    """The sum of the matrices' Frobenius norms."""
    return sum(float(torch.linalg.matrix_norm(matrix)) for matrix in matrices)


def _with_signs(triples: Triples) -> Triples:
    if not triples.s.numel():
        return triples
    peaks = triples.u.abs().argmax(dim=0, keepdim=True)
    signs = triples.u.gather(0, peaks).sign().view(-1)
    return Triples(triples.u * signs, triples.s, triples.vt * signs[:, None])


def _driver(matrix: torch.Tensor) -> str | None:
    """On a GPU the exact algorithm, not the default one of low accuracy."""
    return "gesvd" if matrix.is_cuda else None
