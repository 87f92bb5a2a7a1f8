"""The method of `examples/custom_method.py` equals its formula in numpy: a test to copy.

The formula comes first, and shares no code with the engine. `zoo` has a base and three experts of
difficult tensors in each dtype, and `merge_nasty` merges them in the smallest blocks. `end_to_end`
gives the formula one long tensor of the whole model. For a formula of one tensor, `every_tensor`
beside it gives it each in turn.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from merge_core.methods.external import _registered
from tests.conformance.nasty import (
    Models,
    Zoo,
    assert_equals_oracle,
    end_to_end,
    entry,
    merge_nasty,
)
from tests.conformance.oracle import Array

EXPERTS = ("a", "b", "c")
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "custom_method.py"


def capped(m: Models, cap: float) -> Array:
    """The mean of the task vectors, each cut to `cap` times the median of their lengths."""
    vectors = [m[name] - m["base"] for name in EXPERTS]
    lengths = [float(np.linalg.norm(vector)) for vector in vectors]
    longest = cap * float(np.median(lengths))
    factors = [min(1.0, longest / length) for length in lengths]
    return m["base"] + sum(f * v for f, v in zip(factors, vectors, strict=True)) / len(vectors)


@pytest.fixture(autouse=True)
def _registered_example(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only for a method from outside of the package: one inside is found by itself."""
    spec = importlib.util.spec_from_file_location("custom_method", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "custom_method", module)
    spec.loader.exec_module(module)
    yield
    del _registered["capped_task_arithmetic"]


@pytest.mark.parametrize("cap", [0.5, 1.0, 3.0])
def test_task_vectors_are_cut_to_the_median_of_their_lengths(
    zoo: Zoo, tmp_path: Path, cap: float
) -> None:
    recipe: dict[str, object] = {
        "merge_method": "capped_task_arithmetic",
        "base_model": "base",
        "models": [entry(name) for name in EXPERTS],
        "parameters": {"cap": cap},
    }
    merge_nasty(recipe, zoo, tmp_path / "out")
    assert_equals_oracle(tmp_path / "out", end_to_end(zoo, lambda m: capped(m, cap)))
