"""The flows' evaluations: whose process is how fresh, and one batch size for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from flows.gpu_slot import device_slot
from flows.run_step import run_step, run_together
from flows.settings.pipeline import Evaluate, Pipeline
from flows.steps.scores import Scores
from merge_core.errors import StepError
from merge_core.homes.home import Home
from merge_core.records import CheckpointManifest, SourceCheckpoint
from merge_core.runtime.threads import default_threads
from merge_core.text.plain import plain_log
from tasks.evaluate import evaluate_task, stored_evaluation
from tasks.evaluation.evaluate import evaluation_key, failed_evaluation
from tasks.evaluation.evaluators import Evaluators, Isolation
from tasks.evaluation.suite import Suite
from tasks.records import EvaluationReport
from tasks.reports.names import distinct_names
from tasks.roles import MERGE, Roles

_log = plain_log("mergeflow")


@dataclass(frozen=True)
class Asked:
    """One checkpoint to evaluate."""

    checkpoint: SourceCheckpoint
    name: str
    isolation: Isolation = "shared"
    """Of `alone` and `first`, an evaluation that is stored does not count if others were evaluated
    before in its process."""
    may_fail: bool = False
    """A candidate that cannot be evaluated is no better than the baseline; its report says why it
    has no scores."""


def begin(
    pipeline: Pipeline, suite: Suite, base: SourceCheckpoint, home: Home, evaluators: Evaluators
) -> None:
    """Start a process for evaluations that are still to come, while something else is done."""
    how = pipeline.evaluate
    if stored_evaluation(home.cache, base, suite, how.device) is None:
        evaluators.begin(suite, how.device, _threads(how))


def evaluate(
    pipeline: Pipeline,
    suite: Suite,
    base: SourceCheckpoint,
    experts: Sequence[SourceCheckpoint],
    manifest: CheckpointManifest,
    home: Home,
    evaluators: Evaluators,
    roles: Roles = MERGE,
) -> Scores:
    """Scores of base, experts and merged.

    What the decision rests on, base and merged, comes from processes in which nothing was evaluated
    before. The experts follow the base in its process.
    """
    how, judged = pipeline.evaluate, experts if pipeline.evaluate.experts else ()
    of_experts = distinct_names([expert.reference for expert in judged])
    asked = [
        Asked(base, roles.baseline, "first"),
        *(Asked(expert, name) for expert, name in zip(judged, of_experts, strict=True)),
        Asked(manifest.as_source(), roles.candidate, "alone", may_fail=True),
    ]
    unknown = [
        each
        for each in asked
        if stored_evaluation(home.cache, each.checkpoint, suite, how.device) is None
    ]
    # The merged checkpoint's process gets ready while the others are evaluated.
    evaluators.begin(suite, how.device, _threads(how), min(len(unknown), 2))
    first, *others, last = score(pipeline, suite, asked, home, evaluators)
    return Scores(base=first, experts=tuple(others), merged=last, roles=roles)


def score(
    pipeline: Pipeline,
    suite: Suite,
    asked: Sequence[Asked],
    home: Home,
    evaluators: Evaluators,
) -> list[EvaluationReport]:
    """Scores of checkpoints on one suite, each found by the checkpoint's content where known, all
    with the same batch size.

    Raises:
        StepError: the evaluation of a checkpoint failed that may not fail.
    """
    sizes: list[int] = []

    def one(each: Asked) -> EvaluationReport:
        report = _report(pipeline, suite, each, home, evaluators, min(sizes, default=None))
        if each.isolation != "shared" and report.warm:
            report = _report(pipeline, suite, each, home, evaluators, report.batch_size, again=True)
        sizes.extend(_size(report, suite))
        return report

    reports = run_together([partial(one, each) for each in asked], pipeline.evaluate.parallel)
    while len(set(sizes)) > 1:
        smallest = min(sizes)
        sizes = []
        for place, (each, report) in enumerate(zip(asked, reports, strict=True)):
            if set(_size(report, suite)) - {smallest}:
                _log.warning(
                    "warning: memory suffices for batches of %d for all of them: evaluating %s"
                    " again, which had batches of %d",
                    smallest,
                    each.name,
                    max(_size(report, suite)),
                )
                reports[place] = _report(
                    pipeline, suite, each, home, evaluators, smallest, again=True
                )
            sizes.extend(_size(reports[place], suite))
    return reports


def _size(report: EvaluationReport, suite: Suite) -> list[int]:
    """The batch size of a report that has scores; older ones had the suite's."""
    if report.failure is not None:
        return []
    asked = suite.settings.batch_size
    known = report.batch_size or (asked if isinstance(asked, int) else None)
    return [known] if known else []


def _threads(how: Evaluate) -> int | None:
    return max(1, default_threads() // how.parallel) if how.parallel > 1 else None


def _report(
    pipeline: Pipeline,
    suite: Suite,
    asked: Asked,
    home: Home,
    evaluators: Evaluators,
    batch_size: int | None,
    *,
    again: bool = False,
) -> EvaluationReport:
    """One checkpoint's report.

    Args:
        again: whatever is stored.
    """
    how = pipeline.evaluate
    key = evaluation_key(asked.checkpoint, suite, how.device)
    named = asked.checkpoint.model_copy(update={"reference": asked.name})
    task = evaluate_task.with_options(refresh_cache=True) if again else evaluate_task
    try:
        with device_slot(how.device):
            report = run_step(
                task,
                key,
                named,
                suite,
                home.scratch,
                how.device,
                _threads(how),
                subject=asked.name,
                logs=home.logs,
                digest_memo=home.digest_memo,
                evaluators=evaluators,
                isolation=asked.isolation,
                batch_size=batch_size,
            )
    except StepError as error:
        if not asked.may_fail:
            raise
        _log.warning(
            "the candidate cannot be evaluated: %s; what to do: %s", error.what, error.mend
        )
        report = failed_evaluation(named, suite, how.device, error)
    # The same content may have been scored under another name.
    return report.model_copy(update={"reference": asked.checkpoint.reference})
