"""How the documents of a task were drawn: their weights, the groups and the strata they belong to.

Documents of one group (a passage with several questions, say) move together, so groups are what was
drawn independently. Strata are fixed parts of a task (the members of an lm-eval group): each has
its own documents, so what differs between strata is no uncertainty.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.statistics.rule import Floats


@dataclass(frozen=True)
class Groups:
    """A partition of documents. Sums go over the last axis, which is the documents'."""

    index: NDArray[np.intp]
    """[documents]: each document's group, from 0."""

    @classmethod
    def of(cls, labels: ArrayLike) -> Groups:
        """The partition that labels (numbers or texts) describe."""
        _, index = np.unique(np.asarray(labels), return_inverse=True)
        return cls(index.astype(np.intp))

    @cached_property
    def count(self) -> int:
        """Number of groups."""
        return int(self.index.max()) + 1

    @cached_property
    def _order(self) -> NDArray[np.intp] | None:
        if np.all(np.diff(self.index) >= 0):
            return None
        return np.argsort(self.index, kind="stable")

    @cached_property
    def _starts(self) -> NDArray[np.intp]:
        return np.searchsorted(np.sort(self.index), np.arange(self.count)).astype(np.intp)

    def sums(self, values: NDArray[Any]) -> NDArray[Any]:
        """[..., documents] -> [..., groups]."""
        ordered = values if self._order is None else values[..., self._order]
        return np.add.reduceat(ordered, self._starts, axis=-1)


@dataclass(frozen=True)
class Sampling:
    """Weights, groups and strata of a task's documents.

    A mean over documents is `sum(weight * value) / sum(weight)`, which is a ratio of two sums (bits
    and bytes) where weights are bytes.
    """

    weights: Floats
    """[documents], above 0."""
    groups: Groups | None = None
    """None: each document is a group of its own."""
    strata: Groups | None = None

    @cached_property
    def documents(self) -> int:
        return len(self.weights)

    @cached_property
    def total(self) -> float:
        return float(self.weights.sum())

    @cached_property
    def kish(self) -> float:
        """Effective number of documents: as many of equal weight would tell as much (Kish 1965)."""
        return float(self.total**2 / (self.weights**2).sum())

    @cached_property
    def group_count(self) -> int:
        return self.groups.count if self.groups else self.documents

    @cached_property
    def group_weights(self) -> Floats:
        """[groups]"""
        return self.groups.sums(self.weights) if self.groups else self.weights

    @cached_property
    def effective_groups(self) -> float:
        """Kish's number of groups. It is below four where one group holds half of all documents."""
        return float(self.total**2 / (self.group_weights**2).sum())

    @cached_property
    def mean_group_size(self) -> float:
        """Design effect of groups whose documents are all alike; the size, of equal groups."""
        return self.kish / self.effective_groups

    @cached_property
    def degrees(self) -> float:
        """Degrees of freedom of a variance between groups (Carter, Schnepel & Steigerwald 2017)."""
        return max(self.effective_groups - 1.0, 1.0)

    @cached_property
    def document_strata(self) -> Groups | None:
        """The strata, if each has two documents at least."""
        return _with_two_each(self.strata)

    @cached_property
    def group_strata(self) -> Groups | None:
        """[groups] The stratum of each group; None where groups reach over strata or are strata."""
        if self.strata is None or self.groups is None:
            return self.document_strata
        first = np.full(self.group_count, self.strata.count, dtype=np.intp)
        last = np.full(self.group_count, -1, dtype=np.intp)
        np.minimum.at(first, self.groups.index, self.strata.index)
        np.maximum.at(last, self.groups.index, self.strata.index)
        return _with_two_each(Groups(first)) if np.array_equal(first, last) else None

    def mean(self, values: Floats) -> Floats:
        """[..., documents] -> [...]"""
        return np.asarray(values @ self.weights / self.total)

    def part(self, chosen: NDArray[np.bool_]) -> Sampling:
        """The documents that are chosen ([documents] of bool, at least one), in their order."""
        groups, strata = (
            Groups.of(each.index[chosen]) if each else None for each in (self.groups, self.strata)
        )
        return Sampling(self.weights[chosen], groups, strata)


def _with_two_each(strata: Groups | None) -> Groups | None:
    if strata is None or strata.count == 1 or np.bincount(strata.index).min() < 2:
        return None
    return strata
