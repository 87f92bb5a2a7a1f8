"""Looks at an evaluation before it is complete, which do not promote noise more often.

Bounds spend the level over equally spaced looks as O'Brien & Fleming's do (Lan & DeMets 1983). They
are found by integrating over the paths that have crossed no bound yet (Armitage, McPherson & Rowe
1969). An evaluation also stops for futility, by conditional power (Lan, Simon & Halperin 1982).
That is not binding: it only ever makes promotions rarer.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from tasks.statistics.levels import normal_quantile
from tasks.statistics.rule import Floats
from tasks.statistics.sampling import Sampling

_NODES = 400
_FAR = 9.0
"""Standard deviations below 0 where the integration begins."""


@lru_cache
def efficacy_bounds(looks: int, alpha: float) -> tuple[float, ...]:
    """The z that has to be reached at each of `looks` equally spaced looks.

    Five looks at a one-sided alpha of 0.025: 4.877, 3.357, 2.680, 2.290, 2.031.
    """
    nodes, node_weights = np.polynomial.legendre.leggauss(_NODES)
    step = 1.0 / looks
    bounds: list[float] = []
    at = np.zeros(1)  # where the score process may be, having crossed nothing, and how likely
    mass = np.ones(1)
    spent = 0.0
    for look in range(1, looks + 1):
        time = look * step
        budget = _spent(time, alpha) - spent
        low, high = 0.0, 40.0
        for _ in range(80):
            bound = (low + high) / 2.0
            crossing = mass @ ndtr(-(bound * np.sqrt(time) - at) / np.sqrt(step))
            low, high = (bound, high) if crossing > budget else (low, bound)
        bounds.append((low + high) / 2.0)
        spent += budget
        end, begin = bounds[-1] * np.sqrt(time), -_FAR * np.sqrt(time)
        places = (end - begin) / 2.0 * nodes + (end + begin) / 2.0
        jumps = (places[:, None] - at[None, :]) / np.sqrt(step)
        density = np.exp(-(jumps**2) / 2.0) @ mass / np.sqrt(2.0 * np.pi * step)
        at, mass = places, density * node_weights * (end - begin) / 2.0
    return tuple(bounds)


def levels_of_looks(looks: int, alpha: float) -> tuple[float, ...]:
    """The one-sided level of every interval at each look; `alpha` itself for a single one."""
    if looks == 1:
        return (alpha,)
    return tuple(float(ndtr(-bound)) for bound in efficacy_bounds(looks, alpha))


def conditional_power(statistic: Floats, information: float, final_bound: float) -> Floats:
    """The chance to end above the final bound, if the rest is a standard error better than so far.

    Args:
        statistic: [...], standard errors from what has to be exceeded, so far.
        information: share of the documents that have been evaluated, below 1.
    """
    so_far = statistic * np.sqrt(information)
    to_come = (statistic + 1.0) / np.sqrt(information) * (1.0 - information)
    return np.asarray(ndtr((so_far + to_come - final_bound) / np.sqrt(1.0 - information)))


def look_of_documents(sampling: Sampling, looks: int, seed: int) -> NDArray[np.intp]:
    """At which look each document is first seen, from 1: [documents].

    Groups come whole, in a seeded order that does not depend on any score; each stratum is spread
    over all looks alike. Looks are as equal in documents as whole groups allow.
    """
    groups, count = sampling.groups, sampling.group_count
    index = groups.index if groups else np.arange(sampling.documents)
    sizes = np.bincount(index).astype(np.float64)
    strata = np.zeros(count, dtype=np.intp)
    if sampling.strata is not None:
        strata[index] = sampling.strata.index
    drawn = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    seen = np.empty(count, dtype=np.float64)
    for stratum in np.unique(strata):
        own = drawn[strata[drawn] == stratum]
        seen[own] = (np.cumsum(sizes[own]) - sizes[own] / 2.0) / sizes[own].sum()
    return np.minimum(np.floor(seen * looks).astype(np.intp) + 1, looks)[index]


def _spent(time: float, alpha: float) -> float:
    """How much of alpha may be spent until a share `time` of the documents has been seen."""
    return float(2.0 * ndtr(ndtri(alpha / 2.0) / np.sqrt(time))) if time < 1.0 else alpha


def final_bound(looks: int, alpha: float) -> float:
    """The z of the last look."""
    return efficacy_bounds(looks, alpha)[-1] if looks > 1 else normal_quantile(alpha)
