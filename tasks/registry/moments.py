"""When something happened, as MLflow, lines and locks say it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

CLOCK = timedelta(minutes=1)
"""By how much the clocks of machines may differ."""


def moment(text: str) -> datetime | None:
    """A time in ISO 8601; None for a text that is none."""
    try:
        found = datetime.fromisoformat(text)
        return found if found.tzinfo else found.astimezone()
    except (ValueError, OverflowError):
        return None


def time_of(milliseconds: int | None) -> datetime:
    """A time of MLflow's; none is as old as can be.

    Raises:
        ValueError: it is in no year that there is.
    """
    return datetime.fromtimestamp((milliseconds or 0) / 1000, UTC)
