"""Which of a run's checkpoints are averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict, Field, model_validator

from merge_core.operations.trajectory.records import LeftAlone, RunCheckpoint


class Choice(BaseModel):
    """Narrows the checkpoints down, in this order: window, every k-th, the last, the best."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    last: int | None = Field(
        default=5,
        ge=1,
        le=1000,
        title="The last",
        description="How many checkpoints, counted back from the newest. Empty: all.",
        json_schema_extra={"position": 0},
    )
    every: int = Field(
        default=1,
        ge=1,
        le=1000,
        title="Every k-th",
        description="2 takes every other checkpoint, counted back from the newest.",
        json_schema_extra={"position": 1},
    )
    from_step: int | None = Field(
        default=None,
        ge=0,
        title="From step",
        description="Leave out checkpoints before this step, for example those of the warm-up.",
        json_schema_extra={"position": 2},
    )
    to_step: int | None = Field(
        default=None,
        ge=0,
        title="To step",
        description="Leave out checkpoints after this step.",
        json_schema_extra={"position": 3},
    )
    best: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        title="The best by a metric",
        description="Of those, only this many: the best by the metric that the trainer logged.",
        json_schema_extra={"position": 4},
    )
    metric: str = Field(
        default="eval_loss",
        min_length=1,
        title="Metric",
        description="Name in trainer_state.json's log_history, logged at the checkpoint's step.",
        json_schema_extra={"position": 5},
    )
    higher_is_better: bool = Field(
        default=False,
        title="Higher is better",
        description="Whether a higher value of the metric is better (accuracy), or a lower (loss).",
        json_schema_extra={"position": 6},
    )

    @model_validator(mode="after")
    def _window_is_open(self) -> Choice:
        if None not in (self.from_step, self.to_step) and self.from_step > self.to_step:  # type: ignore[operator]
            raise ValueError(f"from_step {self.from_step} is after to_step {self.to_step}")
        return self


Examine = Callable[[RunCheckpoint], str | None]
"""Why a checkpoint cannot be averaged; None when it can."""
Measure = Callable[[RunCheckpoint], float | None]
"""The metric that was logged for a checkpoint; None when none was."""


def choose(
    checkpoints: Sequence[RunCheckpoint], choice: Choice, examine: Examine, measure: Measure
) -> tuple[list[RunCheckpoint], list[LeftAlone]]:
    """The checkpoints to average, by rising step, and those of the choice that cannot be.

    Only checkpoints that would be chosen are examined; the place of one that fails goes to another.
    """
    start = 0 if choice.from_step is None else choice.from_step
    usable = [
        each
        for each in sorted(checkpoints, key=lambda each: each.step)
        if start <= each.step and (choice.to_step is None or each.step <= choice.to_step)
    ]
    left_alone: list[LeftAlone] = []
    sound: set[str] = set()
    while True:
        picked = _picked(usable, choice, measure, left_alone)
        doubtful = [each for each in picked if each.name not in sound]
        problems = {each.name: problem for each in doubtful if (problem := examine(each))}
        if not problems:
            return picked, left_alone
        sound |= {each.name for each in doubtful} - problems.keys()
        left_alone += [LeftAlone(name=name, reason=why) for name, why in problems.items()]
        usable = [each for each in usable if each.name not in problems]


def _picked(
    usable: Sequence[RunCheckpoint], choice: Choice, measure: Measure, left_alone: list[LeftAlone]
) -> list[RunCheckpoint]:
    spaced = list(usable[:: -choice.every])[: choice.last][::-1]
    if choice.best is None:
        return spaced
    known = {each.name for each in left_alone}
    measured = []
    for each in spaced:
        value = measure(each)
        if value is not None:
            measured.append(each.model_copy(update={"metric": value}))
        elif each.name not in known:
            reason = f"no {choice.metric} was logged at step {each.step}"
            left_alone.append(LeftAlone(name=each.name, reason=reason))
    sign = -1 if choice.higher_is_better else 1
    best = sorted(measured, key=lambda each: (sign * (each.metric or 0.0), -each.step))
    return sorted(best[: choice.best], key=lambda each: each.step)
