"""The averaging flow: from a training run's checkpoints to a promoted average, or back to the
baseline; done at once when there is no new checkpoint.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from prefect import flow, runtime
from prefect.client.schemas.objects import State

from flows.environment.starting_directory import enter
from flows.merge import conclude
from flows.run_log import log_to_prefect
from flows.run_step import UNSTORED
from flows.settings.averaging import Averaging, load_suites
from flows.settings.parameter_words import in_our_words
from flows.steps import average as step
from flows.steps import evaluating, judging
from flows.steps import merge as merging
from flows.steps.average import Mix, NothingNew
from flows.steps.average_baselines import evaluate_inputs
from flows.steps.early_checks import check_registry, check_rule
from flows.steps.endings import Ending, completed, failed, send_event
from flows.steps.judging import Candidate
from flows.steps.kept_suite import suite_to_keep
from flows.steps.locking import lock_of, warn_of_changes
from flows.steps.signing import check_key
from flows.steps.suite_plan import plan_suite
from merge_core.errors import CheckpointError
from merge_core.files.private import private_umask
from merge_core.homes.home import Home
from merge_core.operations.trajectory.records import Trajectory
from merge_core.text.plain import plain_log
from tasks.evaluation.evaluators import Evaluators
from tasks.evaluation.needs import check_needs
from tasks.evaluation.suite import Suite
from tasks.records import MergeOutcome
from tasks.registry.past_averages import AverageRecord

_ATTEMPTS = 3

_log = plain_log("mergeflow")


def _run_name() -> str:
    return Averaging.model_validate(runtime.flow_run.parameters["averaging"]).name


@flow(name="average-checkpoints", flow_run_name=_run_name, on_completion=[send_event], **UNSTORED)
def average_checkpoints(
    averaging: Averaging, beside: str | None = None
) -> State[MergeOutcome | NothingNew]:
    """Find whole checkpoints, average, evaluate, decide, register, keep the latest averages.

    Ends as `Completed`: promoted or fell back with a `MergeOutcome`, or with a `NothingNew` when
    the last average already holds every checkpoint (`flows.steps.endings.ending_of` tells which);
    or as `Failed` with a message that says what to mend.

    Args:
        beside: directory that a relative path of the training run starts from; by default the
            current one.
    """
    log_to_prefect()
    try:
        enter()
        with private_umask():
            outcome = _run(averaging, Home.discover(), Path(beside) if beside else None)
    except Exception as error:
        return failed(error)
    if isinstance(outcome, NothingNew):
        return completed(Ending.NOTHING_NEW, outcome.reason, outcome)
    ending = Ending.PROMOTED if outcome.decision.promote else Ending.FELL_BACK
    return completed(ending, judging.ending_words(outcome), outcome)


in_our_words(average_checkpoints, Averaging, "averaging")


def _run(averaging: Averaging, home: Home, beside: Path | None) -> MergeOutcome | NothingNew:
    suite, held_out = load_suites(averaging, home)
    check_rule(averaging.promote, suite)
    settings = averaging.settings_digest(suite, held_out)
    for attempt in range(1, _ATTEMPTS + 1):
        trajectory = step.find(averaging, home, beside)
        idle = step.nothing_new(averaging, trajectory, settings, home)
        if idle:
            return idle
        check_registry(averaging.register_as, home)
        check_key(averaging.register_as, home)
        try:
            past = step.past_average(averaging, trajectory, settings, home)
            with Evaluators(home.scratch) as evaluators:
                candidate = _average(
                    averaging, trajectory, past, suite, held_out, home, beside, evaluators
                )
        except (CheckpointError, OSError):
            removed = step.was_removed(trajectory)
            if not removed or attempt == _ATTEMPTS:
                raise
            _log.warning("the training removed %s meanwhile: choosing again", ", ".join(removed))
            continue
        # Not tried again: a person may have been asked.
        outcome = conclude(candidate, home)
        step.conclude(averaging, trajectory, settings, past, outcome, home)
        step.retain(averaging, home)
        return outcome
    raise AssertionError("the last attempt returns or raises")


def _average(
    averaging: Averaging,
    trajectory: Trajectory,
    past: AverageRecord | None,
    suite: Suite,
    held_out: Suite,
    home: Home,
    beside: Path | None,
    evaluators: Evaluators,
) -> Candidate:
    started = datetime.now(UTC)
    mix = Mix(step.ingredients(averaging, trajectory, past))
    pipeline = averaging.pipeline(averaging.recipe(mix.weights))
    resolved = merging.resolve(pipeline, home, None)
    sources = resolved.sources
    warn_of_changes(pipeline, home, sources)
    for each in (suite, held_out):
        check_needs(each, sources[trajectory.newest.reference].directory)
    compatibility = merging.verify(pipeline, sources)
    path = step.path(trajectory, sources)
    chosen = None
    if averaging.average.schedule == "greedy_soup":
        mix, chosen = step.soup(averaging, sources, suite, held_out, home, evaluators)
        pipeline = averaging.pipeline(averaging.recipe(mix.weights))
    files = {**step.show(averaging, trajectory, path, mix), **(chosen.files if chosen else {})}
    best = step.best_alone(averaging, sources, mix)
    evaluate = partial(
        evaluate_inputs,
        averaging,
        pipeline,
        trajectory,
        sources,
        best,
        suite,
        home,
        beside,
        evaluators,
    )
    inputs = evaluate()
    plan_suite(pipeline, inputs)
    manifest = merging.merge(pipeline, sources, home)
    merging.load(pipeline, sources, manifest, home)
    baseline = inputs.baseline.source
    singles = [source for source in sources.values() if source.digest != baseline.digest]
    inputs, scores = evaluating.evaluate_candidate(
        pipeline, suite, manifest, home, evaluators, inputs, evaluate, is_average=True
    )
    lock = lock_of(pipeline, resolved.locked, {}, suite, None, started)
    evaluated = (manifest, baseline, singles, scores, compatibility, lock)
    kept = suite_to_keep(pipeline, suite, scores.base, evaluators)
    return Candidate(pipeline, *evaluated, artifacts=kept | dict(files), chosen=chosen)
