"""What is known of a training run's checkpoints: those chosen for an average, those left alone."""

from __future__ import annotations

from merge_core.records import Record


class RunCheckpoint(Record):
    """One checkpoint of a run."""

    step: int
    name: str
    """Its directory's name, or its branch or tag."""
    reference: str
    """What a recipe names it by: an absolute directory, or `org/name@commit`."""
    identity: str = ""
    """Its content: the model digest, or the commit on the Hub. Empty until it was looked at."""
    metric: float | None = None
    """The validation metric that its trainer noted, where the choice asks for one."""


class LeftAlone(Record):
    """A checkpoint that is not averaged, with the reason in words."""

    name: str
    reason: str


class Trajectory(Record):
    """The checkpoints of a run that are averaged, the oldest first, and those that are not."""

    run: str
    """The directory or Hub repository."""
    chosen: tuple[RunCheckpoint, ...]
    left_alone: tuple[LeftAlone, ...] = ()
    found: int
    """How many checkpoints the run has, whole or not."""

    @property
    def newest(self) -> RunCheckpoint:
        """The last chosen checkpoint; IndexError when none is."""
        return self.chosen[-1]
