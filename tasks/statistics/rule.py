"""The numbers of the gate: how sure, how much better, how much worse. Nothing here reads data."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Kind = Literal["binary", "fraction", "score"]
"""What one document's value can be: 0 or 1; anything from 0 to 1; any number (bits, say)."""


@dataclass(frozen=True)
class GateRule:
    """When a candidate may be promoted. All margins are in units (see `units.unit_of`).

    Raises ValueError, naming the field, for a number outside its range.
    """

    exceed: float = 0.0
    """The weighted mean change over the tasks has to be certainly above this. Below 0 a loss may be
    proved small enough instead of a gain."""
    margin: float = 0.10
    """A task may certainly not have lost this much. 0.10 is about five points of accuracy."""
    widest_margin: float = 0.20
    """How far a margin is widened, before the merge, for a task that cannot resolve `margin`. Equal
    to `margin`: never."""
    alpha: float = 0.025
    """One-sided chance of a false promotion."""
    smallest_unit: float = 0.2
    """Smallest unit of metrics between 0 and 1."""
    min_documents: int = 20
    """A task with fewer documents is neither held nor regressed."""
    min_groups: float = 10.0
    """A task with fewer groups is neither held nor regressed. Unequal groups count as fewer: see
    `Sampling.effective_groups`."""
    min_discordant: int = 10
    """With fewer groups than this that contain a change, a group counts as one document."""
    shrink: float = 1.0
    """Pseudo-groups, whose documents all move together, that a design effect is averaged with."""
    large_groups: float = 10.0
    """Where a document's group has more documents than this on average, or groups are very unequal,
    a pseudo-group that was lost whole is added."""
    clip: float = 0.5
    """In units: a document of an unbounded metric counts as no more changed than this."""
    pseudo_documents: float = 3.84
    """Documents with the worst change that is possible, which are added to what was measured."""
    share: float = 0.8
    """How much of each expert's certain gain is asked for."""
    retention_blocks: bool = True
    """Whether a candidate that certainly keeps less than `share` of an expert's gain is refused."""
    looks: int = 1
    """How often an evaluation may be looked at before it is complete, the last time included."""
    futility: float = 0.02
    """An evaluation stops when the chance to be promoted in the end is below this."""
    guard_power: float = 0.90
    """Margins are widened until an unchanged task is held with this probability."""
    visible_power: float = 0.80
    """A change is called visible when it is promoted with this probability."""

    def __post_init__(self) -> None:
        for name in ("alpha", "guard_power", "visible_power", "share"):
            _need(name, 0 < getattr(self, name) < 1, "between 0 and 1")
        _need("alpha", self.alpha <= 0.25, "at most 0.25")
        _need("exceed", isfinite(self.exceed), "a number")
        _need("margin", 0 < self.margin < float("inf"), "above 0")
        _need("widest_margin", self.margin <= self.widest_margin < float("inf"), "at least margin")
        _need("futility", 0 <= self.futility < 1, "from 0 to 1")
        _need("looks", 1 <= self.looks <= 20, "from 1 to 20")
        for name in ("smallest_unit", "clip"):
            _need(name, 0 < getattr(self, name) < float("inf"), "above 0")
        for name in ("min_documents", "min_groups", "min_discordant", "large_groups"):
            _need(name, getattr(self, name) >= 2, "at least 2")
        for name in ("shrink", "pseudo_documents"):
            _need(name, 0 <= getattr(self, name) < float("inf"), "at least 0")


def _need(name: str, holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"{name}: has to be {what}")
