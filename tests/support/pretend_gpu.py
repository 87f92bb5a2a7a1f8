"""A device that is none: tensors that live on the CPU and behave as if they were on a GPU.

It finds code that mixes tensors of two devices, asks a device's tensor for its memory, or leaves
out a copy. It has no queues and no memory of its own, so it says nothing of speed, or of what
happens when something is not waited for. Its tensors say that they are on `meta`, since a torch
without CUDA makes none on `cuda`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from merge_core.engine import model_statistics, run, worker
from merge_core.kernels.gpu import computation
from merge_core.reductions import gpu
from merge_core.runtime import devices, gpu_transfers

GPU = torch.device("meta")
_MOVING = ("aten::_to_copy", "aten::copy_")
_DIVIDING = {"aten::div": torch.ops.aten.mul.Tensor, "aten::div_": torch.ops.aten.mul_.Tensor}


class Remote(torch.Tensor):
    """A tensor of the device."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Remote:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=GPU,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        return _done(operation, arguments, options or {})


class Visits:
    """How many operations the device has done."""

    count = 0


class _Everywhere(TorchDispatchMode):
    """Takes what is made for the device to it."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        return _done(operation, arguments, options or {})


def _done(operation: Any, arguments: Any, options: dict[str, Any]) -> Any:
    name = operation._schema.name
    tensors = [each for each in tree_leaves((arguments, options)) if isinstance(each, torch.Tensor)]
    is_remote = any(isinstance(each, Remote) for each in tensors)
    # As on a GPU, single numbers may come from the host.
    local = [each for each in tensors if not isinstance(each, Remote) and each.dim()]
    if is_remote and local and name not in _MOVING:
        raise RuntimeError(f"{name} was given tensors of two devices")
    target = options.get("device")
    if target is not None:
        is_remote = torch.device(target) == GPU
        options = options | {"device": torch.device("cpu")}
    Visits.count += is_remote
    if name in _DIVIDING and is_remote and not isinstance(arguments[1], Remote):
        # As a GPU divides by a number of the host's.
        arguments, operation = (arguments[0], 1.0 / float(arguments[1])), _DIVIDING[name]
    found = operation(*tree_map(_held, arguments), **tree_map(_held, options))
    if operation._schema.is_mutable and arguments and found is _held(arguments[0]):
        return arguments[0]
    return tree_map(_remote, found) if is_remote else found


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Remote) else value


def _remote(value: Any) -> Any:
    return Remote(value) if isinstance(value, torch.Tensor) else value


@contextmanager
def queue(device: torch.device) -> Iterator[None]:
    """A worker's queue, in which tensors come to the device."""
    with _Everywhere():
        yield


@pytest.fixture
def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> type[Visits]:
    """Makes `device="cuda"` mean the device that is none, for merges in this process."""
    monkeypatch.setattr(Visits, "count", 0)
    compute_device = devices.compute_device
    for module in (run, worker):
        monkeypatch.setattr(
            module, "compute_device", lambda name: GPU if name == "cuda" else compute_device(name)
        )
    for module in (run, model_statistics):
        monkeypatch.setattr(module, "own_queue", queue)
    monkeypatch.setattr(run, "is_cpu", lambda name: name != "cuda")
    monkeypatch.setattr(run, "spare_memory", lambda device: 1 << 30)
    monkeypatch.setattr(gpu_transfers, "wait_for", lambda device: None)
    for module in (computation, gpu):  # Triton takes none of these tensors
        monkeypatch.setattr(module, "is_trusted", lambda *_: False)
    for module in (run, worker):
        monkeypatch.setattr(module, "give_back", lambda: None)
    return Visits
