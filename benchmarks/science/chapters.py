"""What an experiment hands to the page: claims with their numbers, a table, a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.science.estimates import Estimate

BITS = "bits per byte"
SHARE = "of the experts' gain"


@dataclass(frozen=True)
class Finding:
    """A published claim, and the number that speaks for it when it is above zero."""

    claim: str
    paper: str
    measured: str
    """A sentence that ends with the number: "the sum is better than the base"."""
    estimate: Estimate
    unit: str = BITS
    beside: str = ""
    """Another number, said in brackets."""

    @property
    def said(self) -> str:
        """The sentence."""
        more = f" ({self.beside})" if self.beside else ""
        return f"{self.measured} by {told(self.estimate)} {self.unit}{more}"


@dataclass(frozen=True)
class Panel:
    """One plot of a picture: series over numbers (lines) or over names (bars)."""

    title: str
    across: Sequence[float] | Sequence[str]
    series: Mapping[str, Sequence[Estimate]]
    x: str
    y: str
    reference: str = ""
    """What zero is, written at its line; without it there is no line."""
    unmeasured: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Lines to compare with that are calculated."""


@dataclass(frozen=True)
class Table:
    """Rows of cells below a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Chapter:
    """One experiment's part of the page."""

    name: str
    title: str
    done: str
    """What was done, in a few sentences."""
    findings: Sequence[Finding]
    panels: Sequence[Panel]
    alt: str
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    numbers: Mapping[str, Estimate | float] = field(default_factory=dict)
    """For `measured.json`, by name."""


def told(estimate: Estimate, digits: int = 3) -> str:
    """`+0.012 ± 0.003`."""
    return f"{estimate.mean:+.{digits}f}{_error(estimate, digits)}"


def plain(estimate: Estimate, digits: int = 3) -> str:
    """`0.012 ± 0.003`, of what has no direction."""
    return f"{estimate.mean:.{digits}f}{_error(estimate, digits)}"


def _error(estimate: Estimate, digits: int) -> str:
    """Nothing for an error of exactly 0: of a thing beside itself, or of a single number."""
    return f" ± {estimate.error:.{digits}f}" if estimate.error else ""
