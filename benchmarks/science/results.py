"""What candidates scored on held-out documents with every seed, and differences between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.science.estimates import Estimate, Part, estimate, mean_of
from benchmarks.science.laboratory import Candidate, Laboratory, Values, across
from benchmarks.science.texts import Documents


@dataclass(frozen=True)
class Results:
    """Values of each candidate, seeds by documents, for each set of documents."""

    documents: Sequence[Documents]
    values: Mapping[str, Sequence[Values]]

    def difference(self, name: str, other: str, at: int, weight: float = 1.0) -> Part:
        """What `name` has more than `other`, document by document: bits that it needs more."""
        own = self.values[name][at] - self.values[other][at]
        return Part(own, self.documents[at].groups, weight)

    def more(self, name: str, other: str, at: int | None = None) -> Estimate:
        """The same as an estimate; without `at`, over all sets of documents, each alike."""
        places = range(len(self.documents)) if at is None else (at,)
        return mean_of([self.difference(name, other, place) for place in places])

    def level(self, name: str, at: int) -> Estimate:
        """What a candidate has."""
        return estimate([Part(self.values[name][at], self.documents[at].groups)])

    def kept(self, name: str, base: str, experts: Sequence[str], weight: float = 1.0) -> list[Part]:
        """For each set of documents, the share of its expert's gain over the base that is kept.

        The gains themselves are taken as known.
        """
        parts = []
        for at, expert in enumerate(experts):
            before = self.values[base][at]
            gain = (before - self.values[expert][at]).mean(axis=1, keepdims=True)
            share = (before - self.values[name][at]) / gain
            parts.append(Part(share, self.documents[at].groups, weight / len(experts)))
        return parts


def measured(
    laboratories: Sequence[Laboratory],
    candidates: Callable[[Laboratory], Mapping[str, Candidate]],
    documents: Sequence[Documents],
) -> Results:
    """Measure what `candidates` names in every laboratory."""

    def one(laboratory: Laboratory) -> dict[str, list[Values]]:
        named = candidates(laboratory)
        return {name: laboratory.values(each, documents) for name, each in named.items()}

    found = across(laboratories, one)
    return Results(
        documents,
        {
            name: [np.stack([each[name][at] for each in found]) for at in range(len(documents))]
            for name in found[0]
        },
    )


def of_seeds(numbers: Sequence[float]) -> Estimate:
    """A number that has nothing to do with documents."""
    return estimate([Part(np.asarray(numbers)[:, None], ("",))])
