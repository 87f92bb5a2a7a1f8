"""The frozen values of the later steps: evaluation, decision, registration, outcome."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from merge_core.records import CheckpointManifest, Record, SourceCheckpoint

Verdict = Literal["promoted", "fell_back", "inconclusive"]
Scale = Literal["ratio", "power_of_two"]
Outcome = Literal["held", "regressed", "unclear"]

WORST_BITS = 256.0
"""Most bits that one byte, word or answer can cost. A likelihood of NaN, or of zero, costs this:
worse than anything a working model does (random bytes cost 8), and still an ordinary number."""
LIKELIHOOD_METRICS = ("bits_per_byte", "byte_perplexity", "word_perplexity", "perplexity")
"""Metrics whose values are bits: unbounded, the fewer the better."""


class _Measured(Record):
    """Numbers that were measured. An evaluation gives finite ones alone, so a record of it that
    holds others, which compare with nothing, was not written by one."""

    model_config = ConfigDict(allow_inf_nan=False)

    _later: ClassVar[frozenset[str]] = frozenset()
    """Fields of later versions, which are not written where they are None: what is stored and
    what keys are computed from stays as it was."""

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {
            name: value
            for name, value in values.items()
            if value is not None or name not in self._later
        }


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
    """lm-eval's `prompt_hash` for each document: the text that the model was given, chat template
    included. None, like all that follows, in records of a mergeflow that did not keep it."""
    non_finite: int | None = None
    """Documents whose score or likelihoods are not finite; each counts as the worst there is."""
    truncated: int | None = None
    """Documents whose prompt lost its beginning to fit the context."""
    empty: int | None = None
    """Documents that the model answered with nothing but blanks."""
    cut_off: int | None = None
    """Documents whose answer reached the largest number of tokens before it came to an end."""
    not_finite_at: tuple[int, ...] | None = None
    """Places in `values` of the documents that `non_finite` counts; None if there are none, or in
    records of a mergeflow that only counted them."""
    clusters: tuple[str, ...] | None = None
    """For each document its group; None where the suite names no `cluster`."""
    task_weight: float | None = Field(default=None, ge=0.0)
    """What the task counts in the mean over the tasks; None: 1. 0: it is only guarded."""
    looping: int | None = None
    """Documents whose answer ends in repetitions of itself; None where there are no answers, as
    for the next."""
    answer_characters: int | None = None
    """Characters of all answers together."""

    _later: ClassVar[frozenset[str]] = frozenset(
        {"not_finite_at", "clusters", "task_weight", "looping", "answer_characters"}
    )

    @model_validator(mode="after")
    def _one_of_each_for_a_document(self) -> Self:
        hashes = self.doc_ids if self.prompt_hashes is None else self.prompt_hashes
        if not len(self.doc_ids) == len(self.values) == len(self.weights) == len(hashes):
            raise ValueError("documents, values, weights and prompts are not as many")
        if self.clusters is not None and len(self.clusters) != len(self.doc_ids):
            raise ValueError("documents and clusters are not as many")
        places = self.not_finite_at
        if places is not None and (
            len(places) != (self.non_finite or 0)
            or len(set(places)) != len(places)
            or not all(0 <= place < len(self.doc_ids) for place in places)
        ):
            raise ValueError("the documents without a finite score are not those that are counted")
        return self


class LooksTaken(Record):
    """How far an evaluation went that may stop early."""

    number: int = Field(ge=2)
    taken: int = Field(ge=1)  # `number` if all documents were evaluated
    by: str
    """Digest of the rule and the baselines that decided when to stop."""

    @property
    def is_part(self) -> bool:
        return self.taken < self.number


class EvaluationReport(_Measured):
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
    """Documents whose prompt lost its beginning to fit the context. (Texts scored whole are never
    cut: lm-eval scores long ones window by window.)"""
    failure: str | None = None
    """Why there are no scores: the evaluation of a candidate died, or took too long."""
    batch_size: int | None = None
    """Sequences in one forward pass; None in records of a mergeflow that did not keep it."""
    warm: bool | None = None
    """Whether others were evaluated before in the same process; None if not."""
    looks: LooksTaken | None = None
    """Of an evaluation that may have stopped early; None if it was whole from the beginning."""

    _later: ClassVar[frozenset[str]] = frozenset({"batch_size", "warm", "looks"})

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


class GuardedTask(_Measured):
    """What the calibrated gate found on one task, in units: how far the baseline's documents lie
    apart."""

    task: str
    unit: float
    """In the metric's own unit; of perplexities, in bits."""
    change: float
    low: float
    high: float
    margin: float
    """What the task may not have lost."""
    groups: int
    """What was drawn independently: documents, or clusters of them."""
    gained: int | None = None
    """Documents that became right, and wrong; None but for metrics of 0 and 1."""
    lost: int | None = None
    share: float | None = None
    """Of the mean over the tasks; 0: only guarded. None in records of before."""
    must_hold: bool | None = None
    """The rule names the task among those that may not lose anything; None: it does not."""

    _later: ClassVar[frozenset[str]] = frozenset({"share", "must_hold"})


class KeptOfExpert(_Measured):
    """What a merge kept of what one expert certainly gains on one task."""

    task: str
    expert: str
    gain: float
    """The expert's, over the baseline; positive is better."""
    kept: float
    """The merge's gain as a share of it."""
    outcome: Literal["kept", "below", "unclear"]
    low: float | None = None
    """The interval of `kept`; None in records of before."""
    high: float | None = None
    asked: float | None = None
    _later: ClassVar[frozenset[str]] = frozenset({"low", "high", "asked"})


class PlannedTask(_Measured):
    """What one task can show, known from the baseline and the experts alone."""

    task: str
    metric: str
    documents: int
    groups: float
    """What was drawn independently; unequal groups count as fewer."""
    unit: float
    margin: float
    """In units: what the merge will be guarded at."""
    asked: float
    """In units: the margin that the rule asks for."""
    reach: float | None
    """In units: the smallest margin that a merge which loses nothing holds nine times of ten; None
    without experts to plan from."""
    is_met: bool
    """Whether the margin is at least the reach, and there are documents enough."""
    documents_needed: int | None
    """For the margin that is asked for; None: not known, or more than anybody has."""


class SuitePlan(_Measured):
    """What a suite can show of a merge before there is one."""

    against: str
    """What the baseline is called."""
    visible: float | None
    """In units: the smallest mean change that is promoted four times of five; None without experts
    to plan from."""
    tasks: tuple[PlannedTask, ...]


class AnswersOfTask(_Measured):
    """How the candidate's answers to one task differ from the baseline's in form."""

    task: str
    what: Literal["empty", "cut_off", "looping", "length"]
    before: float
    """How many of the baseline's; of lengths, characters on average."""
    now: float
    documents: int
    outcome: Outcome


class CalibratedGate(_Measured):
    """What the calibrated gate's verdict rests on. The change is in units."""

    alpha: float
    exceed: float
    change: float
    low: float
    high: float
    visible: float | None = None
    """The smallest mean change that these documents show four times of five; None without experts
    to plan from."""
    tasks: tuple[GuardedTask, ...]
    kept: tuple[KeptOfExpert, ...] = ()
    answers: tuple[AnswersOfTask, ...] | None = None
    """Those that changed; None: none did, or none are counted."""
    plan: SuitePlan | None = None
    """None in records of before."""

    _later: ClassVar[frozenset[str]] = frozenset({"answers", "plan"})


class AgainstAnother(_Measured):
    """What was found against one more baseline, which has to be beaten as well."""

    baseline: str
    """What it is called: base, or a reference."""
    digest: str
    verdict: Verdict
    comparisons: tuple[TaskComparison, ...]
    gate: CalibratedGate


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
    gate: CalibratedGate | None = None
    """Of the calibrated gate; None where the former one decided. Then `gain` and what follows it is
    the mean change in units, `min_gain` what it has to exceed, `max_regression` of a comparison its
    margin in the metric's own unit, and `confidence` that of the intervals."""
    baseline: str | None = None
    """What the first baseline is called where it is not the base of a merge."""
    others: tuple[AgainstAnother, ...] | None = None
    """Against the other baselines, each of which has to be beaten too; None: there is one alone."""
    nights: int | None = None
    """How many runs share `alpha` against the baselines that stay; None: each has all of it."""

    candidates: int | None = None
    """Merges that a search chose this one among, on other documents; None: no search did."""

    _later: ClassVar = frozenset({"gate", "baseline", "others", "nights", "candidates"})

    @property
    def baselines(self) -> tuple[str, ...]:
        """What the candidate was compared with, in the rule's order."""
        others = tuple(each.baseline for each in self.others or ())
        return (self.baseline or "base", *others)


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
    baseline: str = "base"
    """What `base` is to the merge: base, champion, best expert, a reference; of an average, latest
    or best checkpoint too."""
    is_average: bool = False
    decision: Decision
    scores: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Score by checkpoint (`base`, each expert's name, `merged`) and task."""
    odd_answers: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """What went oddly in each checkpoint's evaluation: truncated prompts, empty answers."""
    registration: Registration | None = None
