"""What a flow did: which steps it ran and which it found in the cache."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


class RecordedSteps(logging.Handler):
    """Every step of the flows that ran while it listened, as (`step subject`, outcome)."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.all: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        step = getattr(record, "step", None)
        if step is not None:
            subject, outcome = getattr(record, "subject", ""), getattr(record, "outcome", "")
            self.all.append((f"{step} {subject}".strip(), outcome))

    @property
    def cached(self) -> set[str]:
        """Names of the steps that were found in the cache."""
        return {name for name, outcome in self.all if outcome == "cached"}

    @property
    def ran(self) -> set[str]:
        """Names of the steps that were done."""
        return {name for name, outcome in self.all if outcome != "cached"}


@contextlib.contextmanager
def recorded_steps() -> Iterator[RecordedSteps]:
    """Record the steps of the flows that run inside the block."""
    handler = RecordedSteps()
    logger = logging.getLogger("mergeflow")
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
