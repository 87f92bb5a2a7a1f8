"""What can be measured of a model on samples: squared gradients, inputs of layers, the loss.

Imported in the calibration process only: this module loads torch and transformers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from merge_core.methods.calibrated import pack_gram
from merge_core.planning.merged_tensors import WHOLE_MODEL
from tasks.calibration.model import LoadedModel, TokenizedSample
from tasks.processes.model import Problem

Advance = Callable[[int], None]
Measured = dict[str, torch.Tensor]


def mean_squared_gradients(
    loaded: LoadedModel, samples: Sequence[TokenizedSample], batch_size: int, advance: Advance
) -> Measured:
    """For each parameter the mean over the samples of the squared gradient of its mean token loss.

    The square is of one sample's gradient, so samples go through the model one at a time.
    """
    squares = {parameter: torch.zeros_like(parameter) for parameter in loaded.model.parameters()}

    def take(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        squares[parameter].addcmul_(parameter.grad, parameter.grad)
        parameter.grad = None

    for parameter in squares:
        parameter.requires_grad_(True).register_post_accumulate_grad_hook(take)
    for index, sample in enumerate(samples):
        batch = _Batch([sample], loaded.device)
        (batch.loss(loaded.model) / sample.counted).backward()
        advance(index + 1)
    parameters = loaded.model.named_parameters(remove_duplicate=False)
    by_name = {name: squares[parameter] / len(samples) for name, parameter in parameters}
    stored = {**by_name, **loaded.stored(by_name)}
    return {name: stored[own] for name, own in loaded.names.items()}


def gram_matrices(
    loaded: LoadedModel, samples: Sequence[TokenizedSample], batch_size: int, advance: Advance
) -> Measured:
    """For the matrix of each linear layer the sum of x*x^T over its inputs, divided by all tokens.

    Packed with `pack_gram`. A matrix that something else uses too, like tied embeddings, has none,
    nor have those of experts that the model joins into one tensor.
    """
    parameters = dict(loaded.model.named_parameters(remove_duplicate=False))
    stored = {**parameters, **loaded.stored(parameters)}
    by_matrix = {id(stored[own]): name for name, own in loaded.names.items()}
    layers = {
        by_matrix[id(layer.weight)]: layer
        for layer in _linear_layers(loaded.model)
        if id(layer.weight) in by_matrix
    }
    sums = {
        name: torch.zeros(_inputs(layer), _inputs(layer), dtype=torch.float64, device=loaded.device)
        for name, layer in layers.items()
    }
    current: list[_Batch] = []

    def take(name: str, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        rows = current[0].real_rows(arguments[0].detach()).to(torch.float64)
        sums[name].addmm_(rows.T, rows)

    for name, layer in layers.items():
        layer.register_forward_pre_hook(partial(take, name))
    tokens = 0
    for done, batch in _batches(loaded, samples, batch_size):
        current[:] = [batch]
        with torch.no_grad():
            batch.logits(loaded.model)
        tokens += int(batch.mask.sum())
        advance(done)
    return {
        name: pack_gram(total.cpu() / tokens, axis=0 if isinstance(layers[name], Conv1D) else 1)
        for name, total in sums.items()
    }


def mean_loss(
    loaded: LoadedModel, samples: Sequence[TokenizedSample], batch_size: int, advance: Advance
) -> Measured:
    """The mean negative log-likelihood of a counted token, in nats."""
    total = 0.0
    for done, batch in _batches(loaded, samples, batch_size):
        with torch.no_grad():
            total += float(batch.loss(loaded.model))
        advance(done)
    mean = total / sum(sample.counted for sample in samples)
    return {WHOLE_MODEL: torch.tensor([mean], dtype=torch.float64)}


STATISTICS: Mapping[
    str, Callable[[LoadedModel, Sequence[TokenizedSample], int, Advance], Measured]
] = {"fisher": mean_squared_gradients, "gram": gram_matrices, "loss": mean_loss}
"""By the name that methods give as `statistics`."""


class _Batch:
    """Samples padded at the right to one length."""

    def __init__(self, samples: Sequence[TokenizedSample], device: str) -> None:
        length = max(len(sample.ids) for sample in samples)
        ids = torch.zeros(len(samples), length, dtype=torch.long)
        mask = torch.zeros(len(samples), length, dtype=torch.long)
        counted = torch.zeros(len(samples), length, dtype=torch.bool)
        for row, sample in enumerate(samples):
            end = len(sample.ids)
            ids[row, :end] = torch.tensor(sample.ids)
            mask[row, :end] = 1
            counted[row, end - sample.counted : end] = True
        self.ids, self.mask, self.counted = ids.to(device), mask.to(device), counted.to(device)

    def logits(self, model: Any) -> torch.Tensor:
        """The model's answer to every token."""
        answer = model(input_ids=self.ids, attention_mask=self.mask, use_cache=False)
        logits: torch.Tensor = answer.logits
        return logits

    def loss(self, model: Any) -> torch.Tensor:
        """The sum of the counted tokens' negative log-likelihoods."""
        logits = self.logits(model)[:, :-1].float()
        counted = self.counted[:, 1:]
        targets = self.ids[:, 1:][counted]
        return nn.functional.cross_entropy(logits[counted], targets, reduction="sum")

    def real_rows(self, values: torch.Tensor) -> torch.Tensor:
        """A layer's inputs (..., n) as rows, those of padding left out.

        Raises:
            Problem: the layer sees other rows than the batch has, so padding cannot be told.
        """
        if values.shape[:-1] == self.mask.shape:
            return values[self.mask.bool()]
        if not bool(self.mask.all()):
            raise Problem(
                "a layer of this model takes its inputs from several samples at once",
                place="data",
                mend="set calibration.batch_size: 1",
            )
        return values.reshape(-1, values.shape[-1])


def _batches(
    loaded: LoadedModel, samples: Sequence[TokenizedSample], size: int
) -> Iterator[tuple[int, _Batch]]:
    """Batches in the samples' order, each with the number of samples done after it."""
    for start in range(0, len(samples), size):
        part = samples[start : start + size]
        yield start + len(part), _Batch(part, loaded.device)


def _linear_layers(model: Any) -> Iterator[nn.Module]:
    """Linear layers with a matrix of their own."""
    uses = Counter(id(each) for _, each in model.named_parameters(remove_duplicate=False))
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D) and uses[id(module.weight)] == 1:
            yield module


def _inputs(layer: nn.Module) -> int:
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    return int(weight.shape[0] if isinstance(layer, Conv1D) else weight.shape[1])
