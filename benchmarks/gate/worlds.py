"""Documents with a known truth: baselines, experts and candidates whose true change is set.

All arrays are [simulations, documents]. Groups: with probability sqrt(correlation) a document takes
its group's draw instead of its own, so two documents of a group are correlated by `correlation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.statistics.rule import Kind
from tasks.statistics.sampling import Groups, Sampling

Floats = NDArray[np.float64]
Source = np.random.Generator
Tail = Literal["none", "normal", "t2.5", "skewed", "disaster", "disaster in long documents"]
AT_MARGIN = "margin"
"""A true change of exactly minus the margin that was planned in this simulation."""

_GRID = 4001
_DISASTER = 0.5
"""In units: as much as the default rule lets one document count for."""


@dataclass(frozen=True)
class World:
    """One task: how its documents come, and what is true of the candidate."""

    documents: int
    change: float | Literal["margin"] = 0.0
    """True change in units, or `AT_MARGIN`."""
    kind: Kind = "binary"
    flips: float = 0.10
    """Share of documents that change, the losses that a negative change needs among them; at least
    the change itself. 0/1 metrics only."""
    right: float = 0.6
    """The baseline's true share of right answers."""
    sizes: tuple[int, ...] = ()
    """Documents of each group; repeated until there are enough. Empty: no groups."""
    correlation: float = 0.0
    large_groups_lose: bool = False
    """A loss is as likelier as the document's group is larger. 0/1 metrics only."""
    tail: Tail = "none"
    """How the change of an unbounded metric is distributed around its mean."""
    long_tailed_weights: bool = False
    """Bytes of documents are log-normal with a sigma of 1, instead of all alike."""
    experts: tuple[float, ...] = ()
    """Share of documents that each expert flips (0/1), or its standard deviation in units."""
    expert_change: float = 0.0
    """Experts' true change in units."""
    shared: float = 0.0
    """Probability that an expert flips exactly where the candidate does."""
    share: float = 1.0


@dataclass
class Drawn:
    """A batch of one world."""

    world: World
    sampling: Sampling
    baseline: Floats
    uniform: Floats
    """What the candidate's changes are made of, so that experts can share them."""
    source: Source
    experts: list[Floats] = field(default_factory=list)


def sampling_of(world: World, source: Source) -> Sampling:
    """Weights and groups; weights are drawn anew for each batch."""
    count = world.documents
    weights = np.ones(count)
    if world.long_tailed_weights:
        weights = np.exp(source.standard_normal(count))
    if not world.sizes:
        return Sampling(weights)
    labels: list[int] = []
    while len(labels) < count:
        groups = labels[-1] + 1 if labels else 0
        labels += [groups] * world.sizes[groups % len(world.sizes)]
    return Sampling(weights, Groups(np.asarray(labels[:count], dtype=np.intp)))


def draw(world: World, sampling: Sampling, count: int, source: Source) -> Drawn:
    """A batch of `count` simulations: the baseline's values and the experts'."""
    together = _together(world, sampling, count, source)
    base, uniform = (_uniform(sampling, together, count, source) for _ in range(2))
    if world.kind != "score":
        baseline = (base < world.right).astype(np.float64)
    else:
        baseline = _normal(base) * 0.5 - 1.0
    drawn = Drawn(world, sampling, baseline, uniform, source)
    for spread in world.experts:
        mine = _uniform(sampling, together, count, source)
        take = source.random(mine.shape) < world.shared
        mine = np.where(take, uniform, mine)
        if world.kind != "score":
            unit = np.full(count, np.sqrt(world.right * (1 - world.right)))
            change = world.expert_change * unit
            drawn.experts.append(_flip(drawn, mine, spread, change))
        else:
            drawn.experts.append(baseline + 0.5 * (world.expert_change + spread * _normal(mine)))
    return drawn


def candidate_of(drawn: Drawn, unit: Floats, margin: Floats) -> tuple[Floats, Floats]:
    """The candidate's values, and its true change in units: bounded, for unbounded metrics.

    Args:
        unit, margin: [simulations], as planned.
    """
    world = drawn.world
    wanted = -margin if world.change == AT_MARGIN else np.full_like(unit, world.change)
    if world.kind != "score":
        return _flip(drawn, drawn.uniform, world.flips, wanted * unit), wanted
    if world.tail in ("disaster", "disaster in long documents"):
        return _disaster(drawn, unit, wanted), wanted
    noise = _noise(world.tail, (np.arange(_GRID) + 0.5) / _GRID)
    shift = _shift_for(noise, wanted)
    change = shift[:, None] + _noise(world.tail, drawn.uniform)
    return drawn.baseline + unit[:, None] * change, wanted


def _flip(drawn: Drawn, uniform: Floats, flips: float, change: Floats) -> Floats:
    """Right and wrong answers that flip so that the true share changes by `change` ([sims])."""
    right, base = drawn.world.right, drawn.baseline
    total = np.maximum(flips, np.abs(change))
    losing = ((total - change) / 2.0 / right)[:, None]
    gaining = ((total + change) / 2.0 / (1.0 - right))[:, None]
    groups = drawn.sampling.groups
    if drawn.world.large_groups_lose and groups is not None:
        sizes = drawn.sampling.group_weights[groups.index]
        losing = losing * (sizes / sizes.mean())
    return np.where(base > 0, uniform >= losing, uniform < gaining).astype(np.float64)


def _disaster(drawn: Drawn, unit: Floats, wanted: Floats) -> Floats:
    """Most documents do not change at all, a few change by the most that counts."""
    weights = drawn.sampling.weights
    odds = np.ones_like(weights)
    if drawn.world.tail == "disaster in long documents":
        odds = weights / weights.mean()
    needed = np.abs(wanted) / _DISASTER
    odds = odds * (weights.sum() / (weights * odds).sum())
    probability = np.minimum(needed[:, None] * odds, 1.0)
    for _ in range(30):  # where a probability reached 1, the others have to give more
        have = probability @ weights / weights.sum()
        probability = np.minimum(probability * (needed / np.maximum(have, 1e-12))[:, None], 1.0)
    hit = drawn.uniform < probability
    return drawn.baseline + np.sign(wanted)[:, None] * unit[:, None] * _DISASTER * hit


def _noise(tail: Tail, uniform: Floats) -> Floats:
    """Noise in units, a function of uniform numbers; its mean does not matter."""
    if tail == "normal":
        return 0.2 * _normal(uniform)
    if tail == "t2.5":
        from scipy.special import stdtrit

        return 0.1 * np.asarray(stdtrit(2.5, uniform))
    if tail == "skewed":  # rare losses, log-normal
        return -0.05 * np.exp(1.5 * _normal(uniform))
    return np.zeros_like(uniform)


def _shift_for(noise: Floats, wanted: Floats) -> Floats:
    """What has to be added to the noise so that its clipped mean is as wanted, in units."""
    shifts = np.linspace(-1.5, 1.5, 601)
    means = np.array([np.clip(noise + shift, -_DISASTER, _DISASTER).mean() for shift in shifts])
    return np.interp(wanted, means, shifts)


def _normal(uniform: Floats) -> Floats:
    from scipy.special import ndtri

    return np.asarray(ndtri(np.clip(uniform, 1e-12, 1 - 1e-12)))


def _together(
    world: World, sampling: Sampling, count: int, source: Source
) -> NDArray[np.bool_] | None:
    if sampling.groups is None or world.correlation == 0:
        return None
    return source.random((count, sampling.documents)) < np.sqrt(world.correlation)


def _uniform(
    sampling: Sampling, together: NDArray[np.bool_] | None, count: int, source: Source
) -> Floats:
    own = source.random((count, sampling.documents))
    if together is None or sampling.groups is None:
        return own
    groups = source.random((count, sampling.group_count))[:, sampling.groups.index]
    return np.where(together, groups, own)


def scaled(worlds: Sequence[World]) -> list[float]:
    """Shares of the weighted mean that sum to 1."""
    total = sum(world.share for world in worlds)
    return [world.share / total for world in worlds]
