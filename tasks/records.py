"""The frozen values of the later steps: evaluation, decision, registration, outcome."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from merge_core.records import CheckpointManifest, Record, SourceCheckpoint
from tasks.roles import Baseline

Verdict = Literal["promoted", "fell_back", "inconclusive"]
Scale = Literal["ratio", "power_of_two"]
Outcome = Literal["held", "regressed", "unclear"]


class _Measured(Record):
    """Numbers that were measured. An evaluation gives finite ones alone, so a record of it that
    holds others, which compare with nothing, was not written by one."""

    model_config = ConfigDict(allow_inf_nan=False)


class TaskScore(_Measured):
    """One lm-eval task's result on one checkpoint, with what a paired test needs.

    `values[i] / weights[i]` is not the score of document i in general: the task's score is
    `sum(values) / sum(weights)`. For accuracy, values are 0/1 and weights 1; for bits per byte,
    values are -log2 likelihoods in bits and weights are byte counts. For perplexities (`scale` is
    `power_of_two`) the score is 2 to the power of that ratio.
    """

    task: str
    metric: str
    higher_is_better: bool
    score: float
    doc_ids: tuple[str, ...]
    """lm-eval's `doc_hash` for each document, in the order of `values`."""
    values: tuple[float, ...]
    weights: tuple[float, ...]
    scale: Scale = "ratio"
    prompt_hashes: tuple[str, ...] | None = None
    """lm-eval's `prompt_hash` for each document, in the order of `values`: the text that the model
    was given, chat template included. None, like all that follows, in records of a mergeflow that
    did not keep it."""
    non_finite: int | None = None
    """Documents whose score or likelihoods are not finite; each counts as the worst there is."""
    truncated: int | None = None
    """Documents whose prompt lost its beginning to fit the context."""
    empty: int | None = None
    """Documents that the model answered with nothing but blanks."""
    cut_off: int | None = None
    """Documents whose answer reached the largest number of tokens before it came to an end."""

    @model_validator(mode="after")
    def _one_of_each_for_a_document(self) -> Self:
        hashes = self.doc_ids if self.prompt_hashes is None else self.prompt_hashes
        if not len(self.doc_ids) == len(self.values) == len(self.weights) == len(hashes):
            raise ValueError("documents, values, weights and prompts are not as many")
        return self


class EvaluationReport(Record):
    """lm-eval on one checkpoint with one suite."""

    checkpoint_digest: str
    reference: str
    suite: str
    suite_digest: str
    lm_eval_version: str
    transformers_version: str
    device: str
    scores: tuple[TaskScore, ...]
    truncated: int = 0
    """Documents whose prompt lost its beginning to fit the model's context. (Texts scored whole,
    as for bits per byte, are never cut: lm-eval scores long ones window by window.)"""
    failure: str | None = None
    """Why there are no scores: the evaluation of a candidate died, or took too long."""

    def score(self, task: str) -> TaskScore:
        """The score of one task; KeyError if the suite has no such task."""
        for score in self.scores:
            if score.task == task:
                return score
        raise KeyError(task)


class TaskComparison(_Measured):
    """Merged against baseline on one task, on the same documents.

    Improvements are oriented: positive is better, in the metric's own unit. The interval is a
    paired bootstrap over documents.
    """

    task: str
    metric: str
    higher_is_better: bool
    baseline: float
    candidate: float
    improvement: float
    low: float
    high: float
    max_regression: float
    documents: int = 0
    outcome: Outcome
    non_finite: tuple[int, int] | None = None
    """Documents without a finite score, of the baseline and of the candidate; None if all have."""
    other_prompts: int | None = None
    """Documents that the two were asked with different prompts, by chat template for example; None
    if there are none, or prompts were not kept."""


class Approval(Record):
    """What a person said of a promotion that the rule allows."""

    approved: bool
    by: str | None = None
    """Who decided, as typed into the form; None when nobody answered in time."""
    comment: str = ""
    at: str
    """When, in ISO format, UTC."""
    flow_run_id: str
    """The run in Prefect that asked, with what was shown."""


class Decision(_Measured):
    """The verdict on a merged checkpoint, with its reasons in words."""

    verdict: Verdict
    promote: bool
    reasons: tuple[str, ...]
    comparisons: tuple[TaskComparison, ...]
    gain: float
    """Mean over the tasks of the improvement relative to the baseline's score."""
    gain_low: float
    gain_high: float
    min_gain: float
    confidence: float
    documents: int
    candidate_digest: str
    baseline_digest: str
    approval: Approval | None = None
    """Of a person, where the pipeline asks for one and the rule has promoted."""


class RegisteredVersion(Record):
    """One version of a registered model in MLflow."""

    name: str
    version: str
    digest: str
    alias: str | None = None
    run_id: str | None = None
    logged_model_id: str | None = None


class Registration(Record):
    """What the register step left in MLflow."""

    tracking_uri: str
    experiment_id: str
    run_id: str
    base: RegisteredVersion
    candidate: RegisteredVersion
    champion: RegisteredVersion
    """The version that holds the alias after this run."""
    champion_stays: str | None = None
    """Why the alias stayed with its holder although this merge was not promoted."""


class MergeOutcome(Record):
    """The answer of a merge run: which checkpoint to serve, and why."""

    state: Literal["Promoted", "FellBack"]
    serve: str
    """Directory of the checkpoint to serve."""
    serve_digest: str
    champion: str | None = None
    """`models:/NAME/VERSION` that holds the alias, when a model is registered."""
    merged: CheckpointManifest
    base: SourceCheckpoint
    baseline: Baseline = "base"
    """What `base` is to the merge; an average is judged against another checkpoint."""
    decision: Decision
    scores: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Score by checkpoint (`base`, each expert's name, `merged`) and task."""
    odd_answers: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """What went oddly in each checkpoint's evaluation: truncated prompts, empty answers."""
    registration: Registration | None = None
