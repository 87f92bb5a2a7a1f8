"""What a checkpoint says of its run: `trainer_state.json`, as the Hugging Face Trainer writes it.

Its log holds the whole run up to the checkpoint, so it also tells whether two checkpoints belong to
one run: the log of the later one begins with that of the earlier one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_core.errors import CheckpointError
from merge_core.files.bounded_json import read_json

STATE_NAME = "trainer_state.json"


@dataclass(frozen=True)
class TrainerState:
    """A checkpoint's place in its run."""

    step: int | None
    log: tuple[Mapping[str, Any], ...]

    def metric(self, name: str, step: int) -> float | None:
        """The last finite value of a metric that was logged at a step; None when none was."""
        found = [row[name] for row in self.log if row.get("step") == step and name in row]
        numbers = [float(value) for value in found if isinstance(value, int | float)]
        finite = [value for value in numbers if math.isfinite(value)]
        return finite[-1] if finite else None

    def metrics(self) -> list[str]:
        """Every name that was logged."""
        return sorted({key for row in self.log for key in row} - {"step", "epoch"})

    def continues(self, earlier: TrainerState) -> bool:
        """Whether this log begins with the earlier one's."""
        ours, theirs = ([_text(row) for row in state.log] for state in (self, earlier))
        return ours[: len(theirs)] == theirs


def read_trainer_state(path: Path) -> TrainerState | None:
    """The state in a file; None when there is none, or it cannot be read (yet)."""
    try:
        values = read_json(path)
    except CheckpointError:
        return None
    step, log = values.get("global_step"), values.get("log_history")
    return TrainerState(
        step if isinstance(step, int) and step >= 0 else None,
        tuple(row for row in log if isinstance(row, dict)) if isinstance(log, list) else (),
    )


def _text(row: Mapping[str, Any]) -> str:
    """A row as text, in which NaN equals NaN."""
    return json.dumps(dict(row), sort_keys=True)
