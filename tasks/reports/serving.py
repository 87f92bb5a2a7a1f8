"""The version that serves now, as the question to an approver shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Serving:
    """The version that holds the alias."""

    address: str
    """`models:/NAME/VERSION`."""
    digest: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    """By task, as recorded on the suite that is asked about; empty where there are none."""
