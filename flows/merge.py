"""The merge flow: from a pipeline to a promoted checkpoint, or back to the base."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from prefect import flow, runtime
from prefect.client.schemas.objects import State

from flows.approve import approve
from flows.run_log import log_to_prefect
from flows.run_step import UNSTORED
from flows.settings.parameter_words import in_our_words
from flows.settings.pipeline import Pipeline
from flows.steps import evaluating, judging
from flows.steps import merge as step
from flows.steps.baselines import evaluate_inputs
from flows.steps.diagnosing import diagnose
from flows.steps.early_checks import check_pipeline, suite_of
from flows.steps.endings import Ending, completed, failed, send_event
from flows.steps.judging import Candidate, Chosen
from flows.steps.kept_suite import suite_to_keep
from flows.steps.locking import lock_of, warn_of_changes
from flows.steps.suite_plan import plan_suite
from merge_core.files.private import private_umask
from merge_core.homes.home import Home
from merge_core.operations.examine import base_and_models
from tasks.evaluation.evaluators import Evaluators
from tasks.evaluation.needs import check_needs
from tasks.evaluation.suite import Suite
from tasks.records import MergeOutcome

R = TypeVar("R")


def _run_name() -> str:
    return Pipeline.model_validate(runtime.flow_run.parameters["pipeline"]).run_name


@flow(name="merge", flow_run_name=_run_name, on_completion=[send_event], **UNSTORED)
def merge_pipeline(pipeline: Pipeline, beside: str | None = None) -> State[MergeOutcome]:
    """Resolve, verify, profile, calibrate, evaluate what goes in, merge, load, evaluate what came
    out, decide, register.

    Ends as `Completed` with a `MergeOutcome`: promoted or fell back, as
    `flows.steps.endings.ending_of` tells; or as `Failed` with a message that says what a person has
    to mend.

    Args:
        beside: directory that relative checkpoint paths start from; by default the current one.
    """
    return run_pipeline(pipeline, Path(beside) if beside else None)


in_our_words(merge_pipeline, Pipeline, "pipeline")


def run_pipeline(pipeline: Pipeline, beside: Path | None) -> State[MergeOutcome]:
    """Run every step inside the current flow run; the state that the run has to end in."""
    return run_and_end(lambda home: _run(pipeline, home, beside), lambda outcome: outcome)


def run_and_end(work: Callable[[Home], R], outcome_of: Callable[[R], MergeOutcome]) -> State[R]:
    """Do the work of the current flow run; the state that the run has to end in.

    Args:
        outcome_of: takes the work's result, gives the `MergeOutcome` in it.
    """
    log_to_prefect()
    try:
        with private_umask():
            found = work(Home.discover())
    except Exception as error:
        return failed(error)
    outcome = outcome_of(found)
    ending = Ending.PROMOTED if outcome.decision.promote else Ending.FELL_BACK
    return completed(ending, judging.ending_words(outcome), found)


def _run(pipeline: Pipeline, home: Home, beside: Path | None) -> MergeOutcome:
    started = datetime.now(UTC)
    suite = suite_of(pipeline, home)
    check_pipeline(pipeline, suite, home, beside)
    resolved = step.resolve(pipeline, home, beside)
    warn_of_changes(pipeline, home, resolved.sources)
    donor = resolved.sources[pipeline.recipe.donor]
    check_needs(suite, donor.directory)
    with Evaluators(home.scratch) as evaluators:
        evaluating.begin(pipeline, suite, donor, home, evaluators)
        return run_from_sources(pipeline, suite, resolved, started, home, beside, evaluators)


def run_from_sources(
    pipeline: Pipeline,
    suite: Suite,
    resolved: step.Resolved,
    started: datetime,
    home: Home,
    beside: Path | None,
    evaluators: Evaluators,
    chosen: Chosen | None = None,
) -> MergeOutcome:
    """From checkpoints on this disk to the decision and its record.

    Args:
        chosen: what the recipe was chosen among, by a search.
    """
    recipe, sources = pipeline.recipe, resolved.sources
    base, models = base_and_models(recipe, sources)
    compatibility = step.verify(pipeline, sources)
    profile = step.profile(pipeline, home, base, models) if base else None
    calibration = step.calibrate(pipeline, sources, home, beside)
    donor = sources[recipe.donor]
    others = [source for source in sources.values() if source != donor]
    experts = [step.written_out(pipeline, source, home) for source in others]
    evaluate = partial(evaluate_inputs, pipeline, suite, donor, experts, home, beside, evaluators)
    inputs = evaluate()
    plan_suite(pipeline, inputs)
    diagnosis = diagnose(pipeline, suite, sources, compatibility, home, beside, evaluators)
    manifest = step.merge(pipeline, sources, home, calibration)
    step.load(pipeline, sources, manifest, home)
    inputs, scores = evaluating.evaluate_candidate(
        pipeline, suite, manifest, home, evaluators, inputs, evaluate
    )
    evaluators.close()
    baseline = inputs.baseline.source
    files = suite_to_keep(pipeline, suite)
    if base and profile:
        files["task-vectors.png"] = step.profile_picture(profile, home, base, models)
    models = [source for source in (donor, *experts) if source.digest != baseline.digest]
    lock = lock_of(pipeline, resolved.locked, calibration, suite, beside, started)
    candidate = Candidate(
        pipeline,
        manifest,
        baseline,
        models,
        scores,
        compatibility,
        lock,
        profile,
        {**files, **(chosen.files if chosen else {}), **diagnosis},
        chosen,
    )
    return conclude(candidate, home)


def conclude(candidate: Candidate, home: Home) -> MergeOutcome:
    """Decide on what was evaluated, ask a person where the rule says so, and register."""
    pipeline, scores = candidate.pipeline, candidate.scores
    champion = judging.champion_now(pipeline, home)
    decision = approve(pipeline, home, scores, judging.decide(pipeline, scores, candidate.chosen))
    registration = judging.register(candidate, home, decision, champion)
    return judging.outcome_of(candidate, decision, registration)
