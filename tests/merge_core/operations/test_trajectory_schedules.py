"""Weights of averages over a run, against the definitions they come from, computed apart."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from merge_core.errors import RecipeError
from merge_core.operations.trajectory.schedules import schedule_weights


def trajectory(count: int) -> np.ndarray:
    """Checkpoints of a made-up run: one row each."""
    return np.random.default_rng(count).normal(size=(count, 7)).cumsum(axis=0)


@pytest.mark.parametrize("count", [1, 2, 3, 10])
@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        ("uniform", {}),
        ("swa", {}),
        ("greedy_soup", {}),
        ("wma", {}),
        ("ema", {"beta": 0.0}),
        ("ema", {"beta": 0.93}),
        ("wsm", {"decay": "linear"}),
        ("wsm", {"decay": "cosine"}),
        ("wsm", {"decay": "1-sqrt"}),
    ],
)
def test_weights_are_shares_of_one_whole(schedule: str, options: dict, count: int) -> None:
    weights = schedule_weights(schedule, count, **options)
    assert len(weights) == count
    assert min(weights) >= 0
    assert math.isclose(sum(weights), 1, rel_tol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.999])
def test_ema_is_the_moving_average_taken_step_by_step(beta: float) -> None:
    run = trajectory(9)
    average = run[0]
    for checkpoint in run[1:]:
        average = beta * average + (1 - beta) * checkpoint
    np.testing.assert_allclose(schedule_weights("ema", 9, beta=beta) @ run, average, rtol=1e-12)


def test_swa_is_the_running_mean_taken_step_by_step() -> None:
    run = trajectory(8)
    mean = run[0]
    for seen, checkpoint in enumerate(run[1:], 1):
        mean = (mean * seen + checkpoint) / (seen + 1)
    np.testing.assert_allclose(schedule_weights("swa", 8) @ run, mean, rtol=1e-12)


def test_wma_counts_the_ith_checkpoint_i_times() -> None:
    assert schedule_weights("wma", 4) == [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize(
    ("decay", "factor"),
    [
        ("linear", lambda x: 1 - x),
        ("cosine", lambda x: 0.5 * (1 + math.cos(math.pi * x))),
        ("1-sqrt", lambda x: 1 - x**0.5),
    ],
)
@pytest.mark.parametrize("updates", [1, 4, 9])
def test_wsm_is_the_run_with_its_updates_scaled_as_the_decay_would(
    decay: str, factor: Callable[[float], float], updates: int
) -> None:
    run = trajectory(updates + 1)
    decayed = run[0].copy()
    for i in range(1, updates + 1):
        decayed += factor(i / (updates + 1)) * (run[i] - run[i - 1])
    weights = schedule_weights("wsm", updates + 1, decay=decay)
    np.testing.assert_allclose(weights @ run, decayed, rtol=1e-10)


def test_wsm_of_a_linear_decay_is_the_uniform_mean() -> None:
    np.testing.assert_allclose(schedule_weights("wsm", 6, decay="linear"), [1 / 6] * 6, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("uniform", 0), {}, "no checkpoint"),
        (("emma", 3), {}, "did you mean 'ema'?"),
        (("ema", 3), {"beta": 1.0}, "beta is 1"),
        (("wsm", 3), {"decay": "cosin"}, "did you mean 'cosine'?"),
    ],
)
def test_what_makes_no_sense_is_told(arguments: tuple, options: dict, said: str) -> None:
    with pytest.raises(RecipeError, match=said.replace("?", r"\?")):
        schedule_weights(*arguments, **options)
