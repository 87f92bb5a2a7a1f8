"""Evaluate a checkpoint: lm-eval on one suite, in a process of its own that can be killed.

The result keeps a value for each document, because the decision compares checkpoints pairwise.
"""

from __future__ import annotations

import contextlib
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.errors import CheckpointError, MergeflowError, RecipeError, StepError
from merge_core.files.digests import DigestMemo, digest_of
from merge_core.files.private import make_private_directory
from merge_core.progress import Progress, ProgressEvent
from merge_core.records import SourceCheckpoint
from merge_core.store.vouching import confirm
from merge_core.text.plain import plain_log
from merge_core.verification.alone_findings import how_to_unwrap
from tasks.evaluation.evaluators import Evaluators, Isolation
from tasks.evaluation.faults import cannot_begin, no_result
from tasks.evaluation.suite import Suite, suite_digest
from tasks.processes.model import resolved_device_kind
from tasks.records import EvaluationReport, LooksTaken, TaskScore

_log = plain_log("mergeflow")


class Looks(Protocol):
    """What looks at an evaluation before it is whole, and may end it."""

    @property
    def number(self) -> int:
        """How often, the end included."""

    @property
    def by(self) -> str:
        """Digest of all that decides when to stop."""

    def of_documents(self) -> list[list[int]]:
        """For each task of the suite the look, from 1, of each document of a whole evaluation."""

    def goes_on(self, report: EvaluationReport) -> bool:
        """Whether there is another look after this one."""


def evaluate_checkpoint(
    checkpoint: SourceCheckpoint,
    suite: Suite,
    *,
    device: str = "auto",
    scratch: Path,
    logs: Path | None = None,
    threads: int | None = None,
    memo: DigestMemo | None = None,
    progress: Progress | None = None,
    evaluators: Evaluators | None = None,
    isolation: Isolation = "alone",
    batch_size: int | None = None,
    looks: Looks | None = None,
) -> EvaluationReport:
    """Score a checkpoint on every task of a suite.

    The scores are those of the content that the checkpoint's digest stands for. Every byte is read
    before, which `memo` notes. A file that changed, came or went meanwhile is an error.

    Args:
        device: auto, cpu, cuda or cuda:N; of the CPU, `threads` are used, by default all.
        scratch: working files go below it and are removed afterwards. The log of an evaluation that
            failed is kept in `logs`, by default `scratch` too.
        evaluators: processes to evaluate in; by default one is started and ended here. An
            evaluation that fails where others were evaluated before is done again in a fresh one.
        isolation: how fresh the process has to be.
        batch_size: in place of the suite's.
        looks: may end the evaluation before it is whole.

    A suite whose data is on this disk is evaluated with the network switched off.

    Raises RecipeError when the suite names something that does not exist, StepError when lm-eval
    fails, dies or takes longer than the suite allows; no evaluation is left behind in any case.
    CheckpointError for a base with an adapter, which is first to be written out, and for a
    checkpoint that is not what its record says.
    """
    _check_can_be_evaluated(checkpoint)
    digest = suite_digest(suite)
    confirmed = confirm(checkpoint, memo or DigestMemo(None), progress)
    where = f"evaluate {checkpoint.reference} with suite '{suite.name}'"

    def listen(message: dict[str, Any]) -> None:
        if "halved" in message:
            _log.warning(
                "warning: memory does not suffice for %s: evaluated from the beginning with"
                " batches of %d",
                checkpoint.reference,
                message["halved"],
            )
        if progress and "done" in message:
            stage = f"evaluate {checkpoint.reference}"
            progress(ProgressEvent(stage, message["done"], message["total"], "documents"))

    def report_of(result: dict[str, Any], warm: bool) -> EvaluationReport:
        return EvaluationReport(
            checkpoint_digest=checkpoint.digest,
            reference=checkpoint.reference,
            suite=suite.name,
            suite_digest=digest,
            lm_eval_version=version("lm-eval"),
            transformers_version=version("transformers"),
            device=result["device"],
            scores=tuple(
                _task_score(score, task.weight)
                for score, task in zip(result["scores"], suite.tasks, strict=True)
            ),
            truncated=result["truncated"],
            batch_size=result.get("batch_size"),
            warm=warm or None,
            looks=LooksTaken(number=result["number"], taken=result["look"], by=looks.by)
            if looks
            else None,
        )

    in_looks: dict[str, Any] = {}
    if suite.settings.backend != "transformers":
        isolation = "alone"  # a fork has no server and no engine to itself
    if looks:
        in_looks = {
            "looks": {"number": looks.number, "of": looks.of_documents()},
            "goes_on": lambda so_far: looks.goes_on(report_of(so_far, warm=False)),
        }

    def attempt(evaluators: Evaluators, isolation: Isolation) -> tuple[dict[str, Any], bool] | None:
        """What was measured, and whether others were evaluated there before; None after a failure
        that those others may have caused."""
        arguments = (checkpoint, suite, device, threads, listen)
        with evaluators.evaluated(*arguments, isolation, batch_size, **in_looks) as (done, warm):
            problem = done.messages.get("problem")
            if problem and not problem["bug"]:
                raise _mistake(suite, problem)
            if "result" in done.messages:
                return done.messages["result"], warm
            if warm and not done.end.timed_out:
                return None
            kept = _kept(done.log, logs or scratch)
            raise no_result(where, done.end, done.messages, kept, minutes=suite.timeout_minutes)

    try:
        with contextlib.ExitStack() as stack:
            if evaluators is None:
                evaluators = stack.enter_context(Evaluators(scratch))
            answer = attempt(evaluators, isolation) or attempt(evaluators, "alone")
    except OSError as error:
        raise cannot_begin(where, scratch, error) from None
    assert answer is not None  # an evaluation alone has one, or raises
    confirmed.look_again()
    return report_of(*answer)


def _check_can_be_evaluated(checkpoint: SourceCheckpoint) -> None:
    """Raises CheckpointError."""
    if checkpoint.adapter:
        raise CheckpointError(
            "a base with an adapter is evaluated once it is written out as a checkpoint",
            where=checkpoint.reference,
            mend="merge it alone by passthrough, and evaluate the result",
        )
    if open_checkpoint(checkpoint.directory).wrapper:
        raise CheckpointError(
            "a training wrapper's words are in the names of its tensors: transformers would load"
            " random weights",
            where=checkpoint.reference,
            mend=f"to evaluate it, {how_to_unwrap(checkpoint.reference)}",
        )


def failed_evaluation(
    checkpoint: SourceCheckpoint, suite: Suite, device: str, failure: StepError
) -> EvaluationReport:
    """The report on a candidate that could not be evaluated: no scores, and the reason."""
    return EvaluationReport(
        checkpoint_digest=checkpoint.digest,
        reference=checkpoint.reference,
        suite=suite.name,
        suite_digest=suite_digest(suite),
        lm_eval_version=version("lm-eval"),
        transformers_version=version("transformers"),
        device=resolved_device_kind(device),
        scores=(),
        failure=failure.what,
    )


def evaluation_key(
    checkpoint: SourceCheckpoint,
    suite: Suite,
    device: str = "auto",
    lm_eval_version: str | None = None,
    transformers_version: str | None = None,
) -> str:
    """The cache key of one evaluation: everything that can change a score.

    The kind of device is part of it (`cuda:1` counts as `cuda`): sums differ in their last digits,
    and only evaluations made alike are compared. Versions default to what is installed.
    """
    return digest_of(
        {
            "checkpoint": checkpoint.digest,
            "suite": suite_digest(suite),
            "device": resolved_device_kind(device),
            "lm_eval": lm_eval_version or version("lm-eval"),
            "transformers": transformers_version or version("transformers"),
            "torch": version("torch"),
        }
    )


def _kept(log: Path, directory: Path) -> Path:
    """Put a log where it outlives the working files; where it is then."""
    make_private_directory(directory)
    return log.replace(directory / f"evaluate-{log.parent.name}-{log.stem}.log")


def _task_score(score: dict[str, Any], weight: float | None) -> TaskScore:
    ratio = sum(score["values"]) / sum(score["weights"])
    total = 2.0**ratio if score["scale"] == "power_of_two" else ratio
    return TaskScore(**score, score=total, task_weight=weight)


def _mistake(suite: Suite, problem: dict[str, Any]) -> MergeflowError:
    """Something the evaluation process understood: a person has to change a name or a value."""
    if problem["place"] is None:
        where = f"evaluate with suite '{suite.name}'"
        return StepError(problem["what"], where=where, mend=problem["mend"])
    where = f"suite '{suite.name}' in {suite.directory}: {problem['place']}"
    return RecipeError(problem["what"], where=where, mend=problem["mend"])
