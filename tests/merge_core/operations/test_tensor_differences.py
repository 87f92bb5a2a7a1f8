"""Tensors of two checkpoints, compared by value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from merge_core.operations.tensor_differences import tensor_differences


def write(directory: Path, tensors: dict[str, Any]) -> Path:
    """A checkpoint of these tensors alone."""
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text("{}")
    return directory


def test_tensors_are_compared_by_value_and_the_most_changed_comes_first(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
    changed = values.copy()
    changed[3, 4] += 2.0
    zeros = np.zeros(7, np.float32)
    first = write(
        tmp_path / "a",
        {"same": values, "little": values, "much": zeros, "gone": zeros, "shape": zeros},
    )
    second = write(
        tmp_path / "b",
        {
            "same": values.astype(np.float64),
            "little": changed,
            "much": zeros + 1,
            "new": zeros,
            "shape": zeros[:3].copy(),
        },
    )
    found = tensor_differences(first, second)
    assert [each.name for each in found.changed] == ["much", "little"]
    expected = 2.0 / np.sqrt((values.astype(np.float64) ** 2).sum())
    assert found.changed[1].relative == pytest.approx(expected, rel=1e-6)
    assert found.changed[1].largest == pytest.approx(2.0, rel=1e-6)
    assert found.changed[0].relative == 1.0
    assert (found.only_first, found.only_second) == (("gone",), ("new",))
    assert (found.other_shape, found.other_dtype) == (("shape",), ("same",))
    assert found.compared == 3


def test_values_that_are_no_numbers_differ_from_numbers_only(tmp_path: Path) -> None:
    odd = np.array([np.nan, np.inf, 1.0], np.float32)
    first = write(tmp_path / "a", {"odd": odd, "worse": odd})
    second = write(tmp_path / "b", {"odd": odd, "worse": np.array([0, np.inf, 1], np.float32)})
    found = tensor_differences(first, second)
    assert [each.name for each in found.changed] == ["worse"]
    assert np.isinf(found.changed[0].largest)
