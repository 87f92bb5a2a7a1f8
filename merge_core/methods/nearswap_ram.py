"""Methods that look at where task vectors are small, shared or alone."""

from __future__ import annotations

from merge_core.methods.base import Block, Kernel, Method, TensorJob
from merge_core.methods.parameter import Parameter
from merge_core.runtime.lazy_torch import torch

_TINY_DISTANCE = 1e-6
_TINY_COUNT = 1e-9
_CHANGED = Parameter("epsilon", "a change above this counts", 1e-5, low=0)


class NearSwap(Method):
    """Move weights to the model where both are near, and hardly where they are far apart.

    w = clamp(t / max(|theta_0 - theta_1|, 1e-6), 0, 1); out = w * theta_1 + (1-w) * theta_0.
    """

    name = "nearswap"
    summary = "take the model's weights where they are near the base's"
    paper = "alchemonaut 2024, NearSwap"
    parameters = (Parameter("t", "distance within which weights are taken", None, low=0),)
    base = "required"
    base_role = "one of the two models, whose weights are kept where the other is far away"
    most_models = 1

    def kernel(self, job: TensorJob) -> Kernel:
        return _NearSwap(float(job.parameters["t"]))


class Ram(Method):
    """Average what several models changed, keep in full what one changed.

    c = number of models with |tau_i| > epsilon; tau = sum of those tau_i, divided by c;
    out = theta_0 + tau.
    """

    name = "ram"
    summary = "average shared changes, keep unique ones in full"
    paper = "Yuan et al. 2026, Behavior knowledge merge (RAM)"
    parameters = (_CHANGED,)
    base = "required"

    def kernel(self, job: TensorJob) -> Kernel:
        return _Ram(float(job.parameters["epsilon"]))


class RamPlus(Method):
    """RAM with a model's unique changes enlarged when much of it is shared, tensor by tensor.

    l_i = 1 + r * clip(shared_i / max(unique_i, epsilon), 0, alpha), of counts within the tensor;
    out = theta_0 + (l_i * tau_i where only i changed, the mean where several did).
    """

    name = "ramplus_tl"
    summary = "RAM with unique changes rescaled by how much a model shares"
    paper = "Yuan et al. 2026, Behavior knowledge merge (RAM+)"
    parameters = (
        Parameter("r", "strength of the rescaling", 0.1, low=0),
        Parameter("alpha", "largest ratio of shared to unique that counts", 0.2, low=0),
        _CHANGED,
    )
    base = "required"
    granularity = "multipass"

    def kernel(self, job: TensorJob) -> Kernel:
        settings = [float(job.parameters[name]) for name in ("epsilon", "r", "alpha")]
        return _RamPlus(len(job.model_parameters), *settings)


class _NearSwap(Kernel):
    def __init__(self, t: float) -> None:
        self._t = t

    def combine(self, block: Block) -> torch.Tensor:
        base, model = block.base, block.models[0]
        assert base is not None
        weight = (self._t / (base - model).abs().clamp(min=_TINY_DISTANCE)).clamp(0.0, 1.0)
        return weight * model + (1.0 - weight) * base


class _Ram(Kernel):
    def __init__(self, epsilon: float) -> None:
        self._epsilon = epsilon

    def combine(self, block: Block) -> torch.Tensor:
        return self._merged(block, [1.0] * len(block.models))

    def _changed(self, deltas: list[torch.Tensor]) -> list[torch.Tensor]:
        return [delta.abs() > self._epsilon for delta in deltas]

    def _merged(self, block: Block, factors: list[float]) -> torch.Tensor:
        deltas = block.task_vectors
        changed = self._changed(deltas)
        count = torch.zeros_like(deltas[0])
        total, unique = torch.zeros_like(count), torch.zeros_like(count)
        for delta, where, factor in zip(deltas, changed, factors, strict=True):
            count += where
            total += delta * where
            unique += delta * where * factor
        shared = total / count.clamp(min=1.0)
        assert block.base is not None
        return block.base + torch.where(count == 1, unique, shared)


class _RamPlus(_Ram):
    passes = 1

    def __init__(self, models: int, epsilon: float, r: float, alpha: float) -> None:
        super().__init__(epsilon)
        self._r = r
        self._alpha = alpha
        self._shared, self._unique = [0] * models, [0] * models
        self._factors: list[float] = []

    def observe(self, index: int, block: Block) -> None:
        changed = self._changed(block.task_vectors)
        count = torch.stack(changed).sum(dim=0)
        for model, where in enumerate(changed):
            self._shared[model] += int((where & (count > 1)).sum())
            self._unique[model] += int((where & (count == 1)).sum())

    def conclude(self, index: int) -> None:
        self._factors = [
            1.0 + self._r * min(self._alpha, shared / max(unique, self._epsilon, _TINY_COUNT))
            for shared, unique in zip(self._shared, self._unique, strict=True)
        ]

    def combine(self, block: Block) -> torch.Tensor:
        return self._merged(block, self._factors)
