"""Steps after the merge of a tensor: any method's merged task vector, corrected.

A recipe lists them under `post`. A step sees the exact result of the method, or of the step before
it, together with what the method saw.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

from merge_core.errors import RecipeError, did_you_mean
from merge_core.methods.base import Block, TensorJob
from merge_core.methods.parameter import Parameter, Scalar
from merge_core.methods.spectral.algebra import PARALLEL, frobenius, is_matrix, singular_triples
from merge_core.runtime.lazy_torch import torch


class PostStep(ABC):
    """A registered step. The docstring is its formula. Every step needs a base model."""

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    granularity: ClassVar[Literal["elementwise", "matrix"]] = "elementwise"
    """matrix: a matrix must come as one block; other tensors may come in any blocks."""

    @abstractmethod
    def apply(
        self,
        merged: torch.Tensor,
        block: Block,
        job: TensorJob,
        settings: Mapping[str, Scalar],
    ) -> torch.Tensor:
        """The corrected values of a block.

        Args:
            merged: the merged values, flat float64.
            block: what the method saw of the same elements.
            job: the tensor.
            settings: this step's resolved parameters.
        """

    @classmethod
    def formula(cls) -> str:
        """The step's docstring."""
        return inspect.getdoc(cls) or ""


class Svc(PostStep):
    """Scale down the directions of a merged matrix that several models share (are over-counted).

    With tau = theta - theta_0 of the merge and its SVD = U*S*V^T: a_r = u_r^T * tau,
    a_ri = u_r^T * tau_i, s_ri = <a_r, a_ri> / |a_ri|^2 (0 for a model without a part in u_r),
    g_r = K / sum_i max(alpha, s_ri) over the K models; out = theta_0 + U * diag(g*S) * V^T.
    Tensors that are not matrices stay as they are. Where singular values are equal, as after iso_c,
    the directions u_r are arbitrary: no step for isotropic methods.
    """

    name = "svc"
    summary = "calibrate a merged matrix's singular values by how much each model asks for"
    paper = "2026, When shared knowledge hurts: spectral over-accumulation (arXiv:2602.05536)"
    parameters = (
        Parameter(
            "alpha",
            "floor of a model's coefficient; at 1 directions only shrink, below 1 they may grow",
            1.0,
            low=1e-6,
        ),
    )
    granularity = "matrix"

    def apply(
        self,
        merged: torch.Tensor,
        block: Block,
        job: TensorJob,
        settings: Mapping[str, Scalar],
    ) -> torch.Tensor:
        if not is_matrix(job.shape):
            return merged
        assert block.base is not None
        deltas = [delta.view(job.shape) for delta in block.task_vectors]
        triples = singular_triples((merged - block.base).view(job.shape))
        wanted = torch.zeros_like(triples.s)
        for delta in deltas:
            share = triples.u.T @ delta
            squares = (share * share).sum(dim=1)
            takes_part = squares > (PARALLEL * frobenius([delta])) ** 2
            dots = (share * triples.vt).sum(dim=1) * triples.s
            coefficients = torch.where(
                takes_part, dots / torch.where(takes_part, squares, 1.0), 0.0
            )
            wanted += coefficients.clamp(min=float(settings["alpha"]))
        change = (len(deltas) / wanted - 1.0) * triples.s
        return merged + ((triples.u * change) @ triples.vt).reshape(-1)


class Lines(PostStep):
    """Scale the merged task vector by depth: shallow layers keep closer to the base.

    out = theta_0 + (alpha + beta * l/(L-1)) * (theta - theta_0) in layer l of L, counted from 0;
    alpha alone outside the layers (embeddings, final norm, head).
    """

    name = "lines"
    summary = "scale the merged task vector linearly with depth"
    paper = "Wang et al. 2024, LiNeS: post-training layer scaling (arXiv:2410.17146)"
    parameters = (
        Parameter("alpha", "scale of the first layer, and of tensors outside the layers", None),
        Parameter(
            "beta", "what the last layer's scale has on top of alpha; the paper tunes it", None
        ),
    )

    def apply(
        self,
        merged: torch.Tensor,
        block: Block,
        job: TensorJob,
        settings: Mapping[str, Scalar],
    ) -> torch.Tensor:
        assert block.base is not None
        scale = float(settings["alpha"])
        if job.in_layers:
            scale += float(settings["beta"]) * job.depth
        return block.base + (merged - block.base) * scale


POST_STEPS: dict[str, PostStep] = {step.name: step for step in (Svc(), Lines())}
"""Every step that a recipe may name."""


def post_step_named(name: str, where: str = "post") -> PostStep:
    """The step of this name.

    Raises:
        RecipeError: there is none; the message proposes the closest.
    """
    step = POST_STEPS.get(name)
    if step is None:
        raise RecipeError(
            f"unknown post-step '{name}'; {did_you_mean(name, POST_STEPS)}", where=where
        )
    return step
