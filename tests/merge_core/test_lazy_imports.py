"""What is slow to import is imported when it is used, not before."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = (
    *("torch", "transformers", "prefect", "mlflow", "lm_eval", "huggingface_hub", "pandas"),
    *("cryptography", "model_signing"),
)


def loaded_by(code: str) -> set[str]:
    """The slow packages that a fresh interpreter has loaded after some code."""
    report = f"import sys; sys.stderr.write(' '.join(sorted(set({SLOW!r}) & set(sys.modules))))"
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(ended.stderr.split())


def test_no_module_of_the_library_loads_torch_when_it_is_imported() -> None:
    everything = """
import importlib, pkgutil, merge_core
for module in pkgutil.walk_packages(merge_core.__path__, "merge_core."):
    importlib.import_module(module.name)
"""
    assert loaded_by(everything) == set()


@pytest.mark.parametrize("arguments", [["--help"], ["merge", "--help"], ["plan", "--help"]])
def test_help_loads_nothing_slow(arguments: list[str]) -> None:
    assert loaded_by(f"from flows.cli.program import run; run({arguments})") == set()


@pytest.mark.slow
def test_torch_is_loaded_once_and_complete_when_many_threads_ask_for_it_first() -> None:
    code = """
import threading
from merge_core.runtime.lazy_torch import torch
at_once = threading.Barrier(8)
found = []

def ask():
    at_once.wait()
    found.append((torch.Tensor, torch.nn.functional.linear, torch.bfloat16))

threads = [threading.Thread(target=ask) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
import torch as real
assert found == [(real.Tensor, real.nn.functional.linear, real.bfloat16)] * 8
"""
    assert loaded_by(code) == {"torch"}


def test_an_attribute_that_torch_lacks_is_named() -> None:
    from merge_core.runtime.lazy_torch import torch

    with pytest.raises(AttributeError, match="no attribute 'tensr'"):
        torch.tensr  # noqa: B018
