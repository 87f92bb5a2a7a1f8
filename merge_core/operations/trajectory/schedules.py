"""Weights of an average over the checkpoints of a run, the oldest first.

Every schedule is a weight vector that adds up to 1, so that an average is a `linear` merge.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

from merge_core.errors import RecipeError, did_you_mean

Schedule = Literal["uniform", "ema", "wma", "wsm", "swa", "greedy_soup"]
Decay = Literal["linear", "cosine", "1-sqrt"]

_DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda x: 1 - x,
    "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
    "1-sqrt": lambda x: 1 - math.sqrt(x),
}
"""Learning rate, relative to its height, after the share x of a decay; from 1 to 0."""


def schedule_weights(
    schedule: str, count: int, *, beta: float = 0.9, decay: str = "linear"
) -> list[float]:
    """The weights of `count` checkpoints, in the order of training; they add up to 1.

    `uniform` (also `swa` and `greedy_soup`, which differ in what they are averages of): 1/n,
    LAWA (arXiv:2209.14981), SWA (arXiv:1803.05407). `ema`, `wma`, `wsm`: see the functions below.

    Raises:
        RecipeError: no checkpoint, no such schedule or decay, or `beta` not in [0, 1).
    """
    if count < 1:
        raise RecipeError("there is no checkpoint to average", where="average")
    if schedule in ("uniform", "swa", "greedy_soup"):
        return [1 / count] * count
    if schedule == "ema":
        return ema_weights(count, beta)
    if schedule == "wma":
        return wma_weights(count)
    if schedule == "wsm":
        return wsm_weights(count, decay)
    raise RecipeError(
        f"there is no schedule '{schedule}'; {did_you_mean(schedule, get_args(Schedule))}",
        where="average.schedule",
    )


def ema_weights(count: int, beta: float) -> list[float]:
    """Exponential moving average: m_1 = θ_1, m_t = β m_(t-1) + (1 - β) θ_t.

    Raises:
        RecipeError: `beta` is not in [0, 1).
    """
    if not 0.0 <= beta < 1.0:
        raise RecipeError(
            f"beta is {beta:g}; it is the share of the old average that each step keeps",
            where="average.beta",
            mend="use a number from 0 (the last checkpoint alone) up to, not including, 1",
        )
    return [beta ** (count - 1)] + [
        (1 - beta) * beta ** (count - position) for position in range(2, count + 1)
    ]


def wma_weights(count: int) -> list[float]:
    """Linearly weighted moving average: θ_i counts i (PMA, arXiv:2505.12082)."""
    total = count * (count + 1) / 2
    return [position / total for position in range(1, count + 1)]


def wsm_weights(count: int, decay: str) -> list[float]:
    """Weights that imitate a decay of the learning rate (WSM, arXiv:2507.17634).

    With w_1 >= ... >= w_k the factors that the decay would have put on the updates between k + 1
    checkpoints, the average Σ_j c_j θ_(n+j) with c_0 = 1 - w_1, c_j = w_j - w_(j+1), c_k = w_k is
    θ_n plus the updates times these factors. Here w_i = f(i / (k + 1)) with f the decay's form,
    so a linear decay is the uniform mean.

    Raises:
        RecipeError: no such decay.
    """
    if decay not in _DECAYS:
        raise RecipeError(
            f"there is no decay '{decay}'; {did_you_mean(decay, _DECAYS)}", where="average.decay"
        )
    factors = [_DECAYS[decay](position / count) for position in range(count)] + [0.0]
    return [factors[position] - factors[position + 1] for position in range(count)]
