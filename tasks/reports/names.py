"""Short names of checkpoints for tables and plots, as distinct as the references they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath


def distinct_names(references: Sequence[str]) -> list[str]:
    """As little of the end of each reference as tells it from the others."""
    parts = [PurePath(reference.rstrip("/")).parts or (reference,) for reference in references]
    return [_tail(mine, parts) for mine in parts]


def _tail(mine: tuple[str, ...], everyone: Sequence[tuple[str, ...]]) -> str:
    for length in range(1, len(mine) + 1):
        if sum(other[-length:] == mine[-length:] for other in everyone) == 1:
            return str(PurePath(*mine[-length:]))
    return str(PurePath(*mine))
