"""Evaluate a checkpoint: lm-eval on one suite, in a process of its own that can be killed.

The result keeps a value for each document, because the decision compares checkpoints pairwise.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from merge_core.digests import digest_of
from merge_core.errors import CheckpointError, MergeflowError, RecipeError, StepError
from merge_core.progress import Progress, ProgressEvent
from merge_core.records import SourceCheckpoint
from tasks.caching import content_task
from tasks.child_process import ChildEnd, run_child
from tasks.model_process import OFFLINE, last_lines, model_environment, resolved_device_kind
from tasks.records import EvaluationReport, TaskScore
from tasks.suite import Suite, is_self_contained, suite_digest, task_directories


def evaluate_checkpoint(
    checkpoint: SourceCheckpoint,
    suite: Suite,
    *,
    device: str = "auto",
    scratch: Path,
    threads: int | None = None,
    progress: Progress | None = None,
) -> EvaluationReport:
    """Score a checkpoint on every task of a suite.

    `device` is auto, cpu, cuda or cuda:N; of the CPU, `threads` are used, by default all. Working
    files go below `scratch` and are removed afterwards, except for the log of an evaluation that
    failed. A suite whose data is on this disk is evaluated with the network switched off.

    Raises RecipeError when the suite names something that does not exist, StepError when lm-eval
    fails, dies or takes longer than the suite allows; no process is left behind in any case.
    CheckpointError for a base with an adapter, which is first to be written out.
    """
    if checkpoint.adapter:
        raise CheckpointError(
            "a base with an adapter is evaluated once it is written out as a checkpoint",
            where=checkpoint.reference,
            mend="merge it alone by passthrough, and evaluate the result",
        )
    digest = suite_digest(suite)
    scratch.mkdir(parents=True, exist_ok=True)
    working = Path(tempfile.mkdtemp(prefix=f"{suite.name}-{checkpoint.short}-", dir=scratch))
    log = working / "lm-eval.log"
    messages: dict[str, Any] = {}

    def listen(message: dict[str, Any]) -> None:
        messages.update(message)
        if progress and "done" in message:
            stage = f"evaluate {checkpoint.reference}"
            progress(ProgressEvent(stage, message["done"], message["total"], "documents"))

    try:
        end = run_child(
            "tasks.lm_eval_process",
            _job(checkpoint, suite, device),
            log=log,
            timeout=suite.timeout_minutes * 60,
            environment=_environment(suite, working, threads),
            on_message=listen,
        )
    finally:
        shutil.rmtree(working / "cache", ignore_errors=True)
    problem = messages.get("problem")
    if "result" not in messages and (problem is None or problem["bug"]):
        raise _breakdown(checkpoint, suite, end, messages, log)
    shutil.rmtree(working, ignore_errors=True)
    if problem:
        raise _mistake(suite, problem)
    result = messages["result"]
    return EvaluationReport(
        checkpoint_digest=checkpoint.digest,
        reference=checkpoint.reference,
        suite=suite.name,
        suite_digest=digest,
        lm_eval_version=version("lm-eval"),
        transformers_version=version("transformers"),
        device=result["device"],
        scores=tuple(_task_score(score) for score in result["scores"]),
        truncated=result["truncated"],
    )


def evaluation_key(
    checkpoint: SourceCheckpoint,
    suite: Suite,
    device_kind: str = "auto",
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
            "device": resolved_device_kind(device_kind),
            "lm_eval": lm_eval_version or version("lm-eval"),
            "transformers": transformers_version or version("transformers"),
            "torch": version("torch"),
        }
    )


@content_task("evaluate", version=1, retries=0)
def evaluate_task(
    key: str,
    checkpoint: SourceCheckpoint,
    suite: Suite,
    scratch: Path,
    device: str = "auto",
    threads: int | None = None,
) -> EvaluationReport:
    """`evaluate_checkpoint` as a cached step. Never retried: a retry would hide a real fault."""
    from tasks.progress import prefect_progress

    return evaluate_checkpoint(
        checkpoint,
        suite,
        device=device,
        scratch=scratch,
        threads=threads,
        progress=prefect_progress(f"evaluate {checkpoint.reference}"),
    )


def _job(checkpoint: SourceCheckpoint, suite: Suite, device: str) -> dict[str, Any]:
    directories = task_directories(suite)
    own = suite.include_directory
    everywhere = directories is None
    return {
        "checkpoint": str(checkpoint.directory.absolute()),
        "directory": suite.directory,
        "include": [str(path) for path in directories or ([own] if own else [])],
        "defaults": everywhere,
        "tasks": [task.model_dump() for task in suite.tasks],
        "settings": suite.settings.model_dump(),
        "device": device,
    }


def _environment(suite: Suite, working: Path, threads: int | None) -> dict[str, str]:
    kept = model_environment(threads)
    if not is_self_contained(suite):
        return kept
    # A private cache: prepared data of another suite, or of an older file, can never be read.
    return (
        kept
        | OFFLINE
        | {"HF_HOME": str(working / "cache")}
        | {"HF_DATASETS_CACHE": str(working / "cache" / "datasets")}
    )


def _task_score(score: dict[str, Any]) -> TaskScore:
    ratio = sum(score["values"]) / sum(score["weights"])
    return TaskScore(**score, score=2.0**ratio if score["scale"] == "power_of_two" else ratio)


def _mistake(suite: Suite, problem: dict[str, Any]) -> MergeflowError:
    """Something the evaluation process understood: a person has to change a name or a value."""
    if problem["place"] is None:
        where = f"evaluate with suite '{suite.name}'"
        return StepError(problem["what"], where=where, mend=problem["mend"])
    where = f"suite '{suite.name}' in {suite.directory}: {problem['place']}"
    return RecipeError(problem["what"], where=where, mend=problem["mend"])


def _breakdown(
    checkpoint: SourceCheckpoint, suite: Suite, end: ChildEnd, messages: dict[str, Any], log: Path
) -> StepError:
    """lm-eval failed, died or was killed: what is known, and where to read on."""
    problem = messages.get("problem")
    less_memory = "lower settings.batch_size or settings.max_length in the suite"
    shown = [f"    | {line}" for line in last_lines(log)]
    if end.timed_out:
        done = f"{messages['done']} of {messages['total']}" if "done" in messages else "no"
        what = (
            f"was killed: not finished in {suite.timeout_minutes:g} minutes ({done} documents done)"
        )
        mend = "raise timeout_minutes or lower settings.limit in the suite, or use a faster device"
    elif problem:
        what, shown = f"failed: {problem['what'][:600]}", []
        mend = "read the log; it ends in a traceback"
        if "memory" in what.lower():
            mend = less_memory
        elif "ConnectionError" in what or "LocalEntryNotFound" in what:
            mend = "the suite's data is on the Hub: let this machine reach it once, or use a suite"
            mend += " whose data is beside it"
    elif end.code == -signal.SIGKILL:
        what = "was killed from outside, most likely because memory ran out"
        mend = less_memory
    else:
        what = f"ended with exit status {end.code} and no result"
        mend = "read the log"
    return StepError(
        f"lm-eval {what}",
        details=[*shown, f"  whole log: {log}"],
        where=f"evaluate {checkpoint.reference} with suite '{suite.name}'",
        mend=mend,
    )
