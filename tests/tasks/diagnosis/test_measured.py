"""What advice says was measured is what `make science` wrote, and says what the advice says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.diagnosis.advice import ALIKE, HIGH, LENGTHS_APART, OPPOSED
from tasks.diagnosis.measured import BEST_SCALE_OF_TWO, MEASURED

WRITTEN = Path(__file__).parents[3] / "benchmarks" / "science" / "measured.json"
NUMBERS: dict[str, Any] = json.loads(WRITTEN.read_text())["numbers"]


@pytest.mark.parametrize("name", MEASURED)
def test_a_number_is_the_one_that_was_written(name: str) -> None:
    written = NUMBERS[name]
    assert MEASURED[name] == (round(written["mean"], 3), round(written["error"], 3))


def seen(name: str) -> float:
    """A mean that is more than two errors away from zero."""
    written = NUMBERS[name]
    assert abs(written["mean"]) > 2 * written["error"]
    return float(written["mean"])


def test_what_was_seen_is_what_the_advice_says() -> None:
    assert round(seen("length_ratio"), 1) == LENGTHS_APART
    assert seen("normalising_helps") > 0
    for against in ("ties_over_task_arithmetic", "dare_over_task_arithmetic"):
        assert seen(against) < 0, "a plain sum was better"
    assert seen("elected_signs_at_equal_length") < 0, "and no share of conflicts asks for TIES"
    assert seen("barrier_same_base") < 0 < HIGH < seen("barrier_other_base")
    assert NUMBERS["best_scale_of_two"] == BEST_SCALE_OF_TWO == 1 / 2, "1 over the models"
    assert OPPOSED < seen("cosine_of_task_vectors") < ALIKE, "experts whose sum was better"
