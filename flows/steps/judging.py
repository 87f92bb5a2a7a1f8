"""The flows' steps after the evaluations: the decision on them, the record in the registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from prefect import runtime

from flows.run_step import run_step
from flows.settings.pipeline import Pipeline
from flows.steps.against import said_against
from flows.steps.artifacts import publish_links, publish_report
from flows.steps.lineage_page import publish_lineage
from flows.steps.run_address import run_address
from flows.steps.scores import Scores
from flows.steps.signing import sign
from flows.steps.unregistered import telling_what_is_done
from merge_core.errors import StepError
from merge_core.homes.home import Home
from merge_core.operations.profile import TaskVectorProfile
from merge_core.output.model_files import RECIPE_NAME
from merge_core.recipes.warnings import warnings_of
from merge_core.records import CheckpointManifest, SourceCheckpoint
from merge_core.verification.verify import CompatibilityReport
from tasks.decide import decide_task
from tasks.evaluation.document_texts import DIRECTORY as DOCUMENTS
from tasks.progress import prefect_progress
from tasks.promotion.choice import OTHER_HALF, with_choice
from tasks.records import Decision, MergeOutcome, Registration
from tasks.register import register_task
from tasks.registry.alias import ANYONE, Seen
from tasks.registry.champion import current_champion
from tasks.registry.client import RegistryUnreachableError
from tasks.registry.file_list import sha256_of
from tasks.registry.lock import LOCK, Lock
from tasks.reports.decision import decision_markdown, serving_markdown, unserved
from tasks.units import timestamp

PICTURE = "intervals.png"
"""Of a decision, among the merge's files in MLflow."""


class Chosen(NamedTuple):
    """What a search says of the recipe that it chose."""

    candidates: int
    """How many different merges it looked at."""
    documents: int
    """How many it looked at them by."""
    files: Mapping[str, str | bytes]
    """For the merge's run in MLflow, by name."""
    of: str = OTHER_HALF
    """Which documents these are."""


class Candidate(NamedTuple):
    """What was merged and evaluated, with all that its decision and its record rest on."""

    pipeline: Pipeline
    manifest: CheckpointManifest
    baseline: SourceCheckpoint
    """The first one, which the run falls back to."""
    models: Sequence[SourceCheckpoint]
    """What it was merged from, without the baseline."""
    scores: Scores
    compatibility: CompatibilityReport
    lock: Lock
    """What `flows.steps.locking` noted; it gets its end when the candidate is registered."""
    profile: TaskVectorProfile | None = None
    artifacts: Mapping[str, str | bytes] = MappingProxyType({})
    """More files for the merge's run in MLflow, by name."""
    chosen: Chosen | None = None
    """By a search, if one did."""


def decide(pipeline: Pipeline, scores: Scores, chosen: Chosen | None = None) -> Decision:
    """The verdict, with everyone's scores side by side on the run's page."""
    bar = scores.bar(pipeline.promote)
    decision = run_step(decide_task, scores.merged, bar, subject=pipeline.name)
    if chosen:
        decision = with_choice(decision, chosen.candidates, chosen.documents, chosen.of)
    publish_decision(pipeline, scores, decision)
    return decision


def champion_now(pipeline: Pipeline, home: Home) -> Seen:
    """The version that serves while a decision is made; None when there is none, or no name.

    A server that is away just now is no reason to end the run: the register step waits for it. Then
    the alias moves whoever holds it.
    """
    name = pipeline.register_as.model
    if name is None:
        return None
    uri = pipeline.register_as.address(home)
    try:
        address = current_champion(uri, name)
    except RegistryUnreachableError:
        return ANYONE
    return address.rpartition("/")[2] if address else None


def publish_decision(pipeline: Pipeline, scores: Scores, decision: Decision) -> None:
    """The decision on the run's page, with the picture of its intervals."""
    picture = _picture(decision)
    page = decision_markdown(
        decision,
        *scores.reports,
        scores.roles,
        picture,
        name=pipeline.name,
        warnings=warnings_of(pipeline.recipe),
    )
    publish_report(pipeline.name, "decision", page)


def _picture(decision: Decision) -> bytes | None:
    if decision.gate is None:
        return None
    from tasks.reports.interval_plot import decision_png  # the drawing library is slow to import

    return decision_png(decision)


def register(
    candidate: Candidate, home: Home, decision: Decision, champion: Seen
) -> Registration | None:
    """The record in MLflow and the alias: the last step, never cached, safe to repeat.

    Args:
        champion: what `champion_now` said when the decision was made.
    """
    pipeline, manifest, scores = candidate.pipeline, candidate.manifest, candidate.scores
    name = pipeline.register_as.model
    if name is None:
        return None
    uri = pipeline.register_as.address(home)
    recipe_file = Path(manifest.path) / RECIPE_NAME
    if not recipe_file.exists():
        raise StepError(
            "the merged checkpoint was removed while this run waited",
            where=manifest.path,
            mend="start the run again; let `mergeflow gc` keep what is younger than approvals take",
        )
    texts = {
        name: sha256_of(content)
        for name, content in candidate.artifacts.items()
        if name.startswith(f"{DOCUMENTS}/")
    }
    ended = candidate.lock.model_copy(update={"ended": timestamp(), "documents": texts})
    files: dict[str, str | bytes] = {
        **candidate.artifacts,
        "rule.json": pipeline.promote.model_dump_json(indent=1),
        "compared.json": scores.compared().model_dump_json(exclude_none=True),
        LOCK: ended.model_dump_json(indent=1),
    }
    if picture := _picture(decision):
        files[PICTURE] = picture
    with telling_what_is_done(manifest, decision, scores.roles):
        registration = run_step(
            register_task,
            subject=name,
            tracking_uri=uri,
            experiment=pipeline.register_as.experiment,
            model_name=name,
            recipe_yaml=recipe_file.read_text("utf-8"),
            recipe_digest=pipeline.recipe.digest,
            manifest=manifest,
            base=candidate.baseline,
            models=candidate.models,
            reports=scores.of_the_merge,
            decision=decision,
            compatibility=candidate.compatibility,
            profile=candidate.profile,
            pipeline_name=pipeline.name,
            prefect_run={
                "flow_run_id": runtime.flow_run.id,
                "flow_run_name": runtime.flow_run.name,
                "url": run_address(home),
            },
            artifacts=files,
            fall_back_to=pipeline.promote.fall_back_to,
            roles=scores.roles,
            digest_memo=home.digest_memo,
            progress=prefect_progress(f"register {name}"),
            home=home,
            champion_seen=champion,
            serve=pipeline.register_as.serve,
            warnings=warnings_of(pipeline.recipe),
        )
    sign(pipeline, home, registration)
    publish_lineage(pipeline.name, registration, uri)
    publish_links(pipeline.name, registration)
    served = manifest.path if decision.promote else candidate.baseline.path
    publish_report(pipeline.name, "serving", serving_markdown(served, registration))
    return registration


def ending_words(outcome: MergeOutcome) -> str:
    """What a run says at its end: the reasons, and why a better merge does not serve."""
    said = unserved(outcome.decision, outcome.registration)
    reasons = said_against(outcome.decision) + "; ".join(outcome.decision.reasons)
    return f"{said}; {reasons}" if said else reasons


def outcome_of(
    candidate: Candidate, decision: Decision, registration: Registration | None
) -> MergeOutcome:
    """The run's answer: which checkpoint to serve, and why."""
    manifest, baseline, scores = candidate.manifest, candidate.baseline, candidate.scores
    served = manifest.as_source() if decision.promote else baseline
    champion = registration.champion if registration else None
    return MergeOutcome(
        state="Promoted" if decision.promote else "FellBack",
        serve=served.path,
        serve_digest=served.digest,
        champion=f"models:/{champion.name}/{champion.version}" if champion else None,
        merged=manifest,
        base=baseline,
        baseline=scores.roles.baseline,
        is_average=scores.roles.is_average,
        decision=decision,
        scores=scores.by_name(),
        odd_answers=scores.odd_answers(),
        registration=registration,
    )
