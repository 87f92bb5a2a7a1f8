"""The flows' evaluations: whose process is how fresh, and one batch size for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from flows.gpu_slot import device_slot
from flows.run_step import run_step, run_together
from flows.settings.pipeline import Evaluate, Pipeline
from flows.steps.scores import Inputs, Scores
from merge_core.errors import StepError
from merge_core.homes.home import Home
from merge_core.records import CheckpointManifest, SourceCheckpoint
from merge_core.runtime.threads import default_threads
from merge_core.text.plain import plain_log
from tasks.evaluate import evaluate_in_looks_task, evaluate_task, stored_evaluation
from tasks.evaluation.evaluate import Looks, failed_evaluation
from tasks.evaluation.evaluators import Evaluators, Isolation
from tasks.evaluation.suite import Suite
from tasks.records import EvaluationReport
from tasks.reports.names import distinct_names
from tasks.roles import Roles

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
        evaluators.begin(suite, how.device, threads_of(how))


def evaluate_candidate(
    pipeline: Pipeline,
    suite: Suite,
    manifest: CheckpointManifest,
    home: Home,
    evaluators: Evaluators,
    inputs: Inputs,
    inputs_again: Callable[[int], Inputs],
    *,
    is_average: bool = False,
) -> tuple[Inputs, Scores]:
    """The scores of what was merged, or why there are none, beside those of what went in.

    Args:
        inputs_again: evaluates what went in with this batch size, if memory does not suffice here
            for the one that it had.
    """
    roles = Roles(inputs.baseline.name, is_average=is_average)
    asked = Asked(manifest.as_source(), roles.candidate, "alone", may_fail=True)
    while True:
        sizes = _size(inputs.report, suite)
        looks = _looks(pipeline, inputs)
        known = stored_evaluation(home.cache, asked.checkpoint, suite, pipeline.evaluate.device)
        if looks and known is None:
            report = _report(pipeline, suite, asked, home, evaluators, *sizes, looks=looks)
        else:
            [report] = score(pipeline, suite, [asked], home, evaluators, *sizes)
        smaller = _size(report, suite)
        if not smaller or smaller == sizes:
            return inputs, inputs.with_candidate(report, roles)
        inputs = inputs_again(*smaller)


def score(
    pipeline: Pipeline,
    suite: Suite,
    asked: Sequence[Asked],
    home: Home,
    evaluators: Evaluators,
    batch_size: int | None = None,
    *,
    then_another: bool = False,
) -> list[EvaluationReport]:
    """Scores of checkpoints on one suite, each found by the checkpoint's content where known, all
    with the same batch size.

    Args:
        batch_size: what others had that these are compared with.
        then_another: one more will need a process that nothing was evaluated in; it gets ready
            while these are evaluated.

    Raises:
        StepError: the evaluation of a checkpoint failed that may not fail.
    """
    how = pipeline.evaluate
    sizes = [batch_size] if batch_size else []
    missing = sum(
        stored_evaluation(home.cache, each.checkpoint, suite, how.device) is None for each in asked
    )
    if missing:
        count = min(missing, how.parallel) + then_another
        evaluators.begin(suite, how.device, threads_of(how), count)

    def one(each: Asked) -> EvaluationReport:
        report = _report(pipeline, suite, each, home, evaluators, min(sizes, default=None))
        if each.isolation != "shared" and report.warm:
            report = _report(pipeline, suite, each, home, evaluators, report.batch_size, again=True)
        sizes.extend(_size(report, suite))
        return report

    reports = run_together([partial(one, each) for each in asked], how.parallel)
    while len(set(sizes)) > 1:
        smallest = min(sizes)
        sizes = [smallest]
        for place, each in enumerate(asked):
            if set(_size(reports[place], suite)) - {smallest}:
                _log.warning(
                    "warning: evaluating %s again with batches of %d, as what it is compared with",
                    each.name,
                    smallest,
                )
                reports[place] = _report(
                    pipeline, suite, each, home, evaluators, smallest, again=True
                )
            sizes.extend(_size(reports[place], suite))
    return reports


def score_each(
    pipeline: Pipeline,
    suite: Suite,
    checkpoints: Sequence[SourceCheckpoint],
    home: Home,
    evaluators: Evaluators,
) -> list[EvaluationReport]:
    """Scores of checkpoints under names that tell each from the others."""
    names = distinct_names([each.reference for each in checkpoints])
    asked = [Asked(*each) for each in zip(checkpoints, names, strict=True)]
    return score(pipeline, suite, asked, home, evaluators)


def _looks(pipeline: Pipeline, inputs: Inputs) -> Looks | None:
    """How the candidate is looked at before its evaluation is whole, if it is."""
    rule = pipeline.promote
    if (rule.looks or 1) == 1:
        return None
    from tasks.promotion.looks import Looks as AsAsked  # scipy is slow to import

    return AsAsked(
        rule=rule,
        baseline=inputs.report,
        called=inputs.baseline.name,
        experts=inputs.experts,
        others=inputs.others,
        origin=inputs.origin,
    )


def _size(report: EvaluationReport, suite: Suite) -> list[int]:
    """The batch size of a report that has scores; older ones had the suite's."""
    if report.failure is not None:
        return []
    asked = suite.settings.batch_size
    known = report.batch_size or (asked if isinstance(asked, int) else None)
    return [known] if known else []


def threads_of(how: Evaluate) -> int | None:
    """Of each evaluation, where several go on side by side; None: as many as there are."""
    return max(1, default_threads() // how.parallel) if how.parallel > 1 else None


def _report(
    pipeline: Pipeline,
    suite: Suite,
    asked: Asked,
    home: Home,
    evaluators: Evaluators,
    batch_size: int | None = None,
    *,
    looks: Looks | None = None,
    again: bool = False,
) -> EvaluationReport:
    """One checkpoint's report.

    Args:
        looks: end as soon as the rule knows enough.
        again: whatever is stored.
    """
    how = pipeline.evaluate
    named = asked.checkpoint.model_copy(update={"reference": asked.name})
    task = evaluate_in_looks_task if looks else evaluate_task
    try:
        with device_slot(how.device):
            report = run_step(
                task.with_options(refresh_cache=True) if again else task,
                named,
                suite,
                home.scratch,
                how.device,
                threads_of(how),
                subject=asked.name,
                logs=home.logs,
                digest_memo=home.digest_memo,
                evaluators=evaluators,
                isolation=asked.isolation,
                batch_size=batch_size,
                looks=looks,
            )
    except StepError as error:
        if not asked.may_fail:
            raise
        _log.warning(
            "the candidate cannot be evaluated: %s; what to do: %s", error.what, error.mend
        )
        report = failed_evaluation(named, suite, how.device, error)
    if report.looks and report.looks.is_part:
        _log.info(
            "the evaluation of %s ended at look %d of %d: the rule knows enough",
            asked.name,
            report.looks.taken,
            report.looks.number,
        )
    # The same content may have been scored under another name.
    return report.model_copy(update={"reference": asked.checkpoint.reference})
