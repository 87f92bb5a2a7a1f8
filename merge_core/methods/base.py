"""What a merge method is, and how the engine drives it block by block.

A method is written once, as torch expressions over float64 blocks, for any device. The engine walks
a tensor in blocks, first `passes` times to let the kernel observe (norms, order statistics), then
once to combine. Blocks begin at multiples of `CHUNK`, so a reduction that adds up chunk by chunk
gives the same bits for every block size and thread count.

A method that must know the whole model before its first tensor has
`ModelStatistics`, which observe every tensor's blocks before any kernel is made.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from merge_core.methods.parameter import Parameter, Scalar
from merge_core.reductions.constants import CHUNK
from merge_core.runtime.lazy_torch import torch

Granularity = Literal["elementwise", "multipass", "rowwise", "matrix"]


@dataclass(frozen=True)
class Block:
    """A run of elements of one tensor: `start` is the flat index of the first.

    base and models are flat float64 tensors of equal length on the compute device.
    """

    start: int
    base: torch.Tensor | None
    models: Sequence[torch.Tensor]
    calibration: Sequence[torch.Tensor] = ()
    """What calibration measured for this tensor, one for each model; empty where it did not. The
    same run of elements where its shape is the tensor's, else the whole of it."""

    @property
    def task_vectors(self) -> list[torch.Tensor]:
        """Each model minus the base: float64, exact for every pair of stored 16-bit values."""
        assert self.base is not None
        return [model - self.base for model in self.models]


@dataclass(frozen=True)
class TensorJob:
    """What a kernel may know about its tensor before it sees any value."""

    name: str
    numel: int
    model_parameters: tuple[Mapping[str, Scalar], ...]
    """Resolved per-model parameters, in the order of the models."""
    parameters: Mapping[str, Scalar]
    """Resolved recipe-wide parameters."""
    random_keys: tuple[int, ...]
    """One 64-bit key for each model, from (seed, method, model digest, tensor name)."""
    shape: tuple[int, ...] = ()
    has_base: bool = True
    models: tuple[int, ...] = ()
    """For each input the position of its model among all models of the recipe."""
    depth: float = 0.0
    """Position among the layers from 0 to 1; 0 outside them."""
    in_layers: bool = False
    """Whether the tensor belongs to a numbered layer."""
    model_statistics: ModelStatistics | None = None
    """What was learned of the whole model, for methods that ask for it."""

    @property
    def row(self) -> int:
        """Elements of a row: the last extent; vectors and scalars are one row. Never 0."""
        return max(1, self.shape[-1] if len(self.shape) > 1 else self.numel)

    @property
    def row_step(self) -> int:
        """Elements of the whole rows that make up about one `CHUNK`."""
        return self.row * max(1, CHUNK // self.row)

    def numbers(self, name: str) -> list[float]:
        """A per-model number of every model."""
        return [float(parameters[name]) for parameters in self.model_parameters]


class Kernel(ABC):
    """The state of one method on one tensor."""

    passes = 0
    """How many times the blocks are shown to `observe` before `combine`."""

    def observe(self, index: int, block: Block) -> None:
        """See a block in pass `index`. Blocks come in order."""

    def conclude(self, index: int) -> None:
        """All blocks of pass `index` were seen."""

    @abstractmethod
    def combine(self, block: Block) -> torch.Tensor:
        """The merged values of a block, float64."""


class ModelStatistics(ABC):
    """What a method learns of the whole model before it makes its first kernel.

    In each pass every tensor has an observer of its own, in any order and on several threads.
    `reduce` then takes what the observers saw, one at a time. The result must not depend on the
    order.
    """

    passes = 1
    """How many times the model is read. A pass may lower it, once nothing is left to learn."""

    @abstractmethod
    def observer(self, index: int, job: TensorJob) -> Observer | None:
        """What sees the blocks of one tensor in pass `index`; None if it need not be read."""

    @abstractmethod
    def reduce(self, index: int, job: TensorJob, observer: Observer) -> None:
        """Take up what an observer saw of its tensor."""

    def conclude(self, index: int) -> None:
        """All tensors of pass `index` were seen."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """What the kernels need, after the last pass, as JSON values: for workers elsewhere."""

    @abstractmethod
    def from_json(self, values: Mapping[str, Any]) -> None:
        """Take what `to_json` gave for the same tensors, in place of passes of its own."""


class Observer(ABC):
    """Sees one tensor in one pass of `ModelStatistics`."""

    @abstractmethod
    def observe(self, block: Block) -> None:
        """See a block. Blocks come in order."""


class Method(ABC):
    """A registered merge method. The docstring is its formula and its paper."""

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    base: ClassVar[Literal["required", "optional"]] = "optional"
    base_role: ClassVar[str] = "the checkpoint that the models were fine-tuned from"
    """What the base is to the method, in words."""
    base_is_input: ClassVar[bool] = False
    """Whether a listed base is one more model to combine, rather than skipped as the origin."""
    fewest_models: ClassVar[int] = 1
    most_models: ClassVar[int | None] = None
    granularity: ClassVar[Granularity] = "elementwise"
    """rowwise: blocks are whole rows, and start at multiples of `TensorJob.row_step`; matrix: the
    whole tensor is one block."""
    calibration: ClassVar[str | None] = None
    """Name of what has to be measured of each model on calibration data, if anything."""
    random: ClassVar[bool] = False
    elects: ClassVar[bool] = False
    """Whether models vote on the sign of each entry, so that the last bit of a sum may decide."""

    @abstractmethod
    def kernel(self, job: TensorJob) -> Kernel:
        """A fresh kernel for one tensor."""

    def model_statistics(self, jobs: Sequence[TensorJob]) -> ModelStatistics | None:
        """What must be learned of the whole model first, given all its tensors; None for nothing.

        Raises:
            RecipeError: the tensors' parameters do not go together.
        """
        return None

    def check(
        self,
        model_parameters: Sequence[Mapping[str, Scalar]],
        parameters: Mapping[str, Scalar],
    ) -> None:
        """Refuse resolved parameters of a tensor that do not go together, while planning.

        Raises:
            RecipeError: what is wrong with them.
        """

    @classmethod
    def per_model(cls) -> tuple[Parameter, ...]:
        """Parameters that each model may set for itself."""
        return tuple(parameter for parameter in cls.parameters if parameter.per_model)

    @classmethod
    def recipe_wide(cls) -> tuple[Parameter, ...]:
        """Parameters that are set once."""
        return tuple(parameter for parameter in cls.parameters if not parameter.per_model)

    @classmethod
    def formula(cls) -> str:
        """The method's docstring."""
        return inspect.getdoc(cls) or ""
