"""Register a merge in MLflow: record it, register base and merged, move `champion` last.

Every step is found again by tags or completed, so that a registration may be interrupted anywhere
and run again: it ends in the same runs, models and versions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from merge_core.errors import StepError
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.progress import Progress
from merge_core.records import CheckpointManifest, SourceCheckpoint
from tasks.records import Decision, EvaluationReport, Registration
from tasks.registry.alias import ANYONE, AliasKeeper, Chosen, Seen
from tasks.registry.client import TAG, Registry, ensure_experiment, open_registry
from tasks.registry.described import where_recorded
from tasks.registry.evaluations import record_evaluation
from tasks.registry.facts import MergeFacts
from tasks.registry.fallback import FallBackTo, Holder, holder_that_stays
from tasks.registry.file_list import FILES_TAG
from tasks.registry.last_check import check_bytes_served, check_files_served
from tasks.registry.memory import note_store_of
from tasks.registry.models import ensure_logged_model
from tasks.registry.runs import (
    ensure_merge_run,
    finish,
    is_recorded,
    record_merge,
    say_what_is_not_added,
)
from tasks.registry.versions import (
    as_record,
    champion_version,
    ensure_base_version,
    ensure_candidate_version,
    ensure_registered_model,
)
from tasks.roles import MERGE, Roles

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion


def register_merge(
    *,
    tracking_uri: str,
    experiment: str,
    model_name: str,
    recipe_yaml: str,
    recipe_digest: str,
    manifest: CheckpointManifest,
    base: SourceCheckpoint,
    models: Sequence[SourceCheckpoint],
    reports: Sequence[EvaluationReport],
    decision: Decision,
    compatibility: BaseModel | None = None,
    profile: BaseModel | None = None,
    pipeline_name: str | None = None,
    prefect_run: Mapping[str, Any] | None = None,
    artifacts: Mapping[str, str | bytes] | None = None,
    fall_back_to: FallBackTo = "champion",
    roles: Roles = MERGE,
    digest_memo: Path | None = None,
    progress: Progress | None = None,
    home: Home | None = None,
    champion_seen: Seen = ANYONE,
    serve: bool = False,
    warnings: Sequence[str] = (),
) -> Registration:
    """Record a merge with its evidence, register base and merged, and let `champion` follow.

    An alias that a person pinned, or moved outside of mergeflow, stays where it is
    (`tasks.registry.alias`). Else `champion` goes to the merged version when the decision promotes
    it. Otherwise it stays with the version that holds it, if that one passed against this base and
    suite or a person approved it (`tasks.registry.fallback`); else it goes to the base version.
    Running the same registration again completes what is missing and changes nothing else. Directly
    before the alias moves, every byte of what it will lead to is read and compared
    (`tasks.registry.last_check`); where it stays with one of the two, all but the bytes of its
    weights is looked at.

    Args:
        tracking_uri: `sqlite:////abs/path.db` or the address of an MLflow server.
        reports: evaluations of base, merged and experts, in the order to show them.
        artifacts: more files for the merge run, by relative name.
        fall_back_to: `base` gives the base the alias whenever a merge is not promoted.
        roles: what base and merged are called in the record.
        digest_memo: gets the digests that were read.
        home: where the history of the model is kept, and the lock for its alias.
        champion_seen: the version that held the alias when the decision was made; another one now
            was put there meanwhile, and keeps it.
        serve: let the home's link `serving/NAME` lead to what has the alias.
        warnings: what the recipe was warned of before the merge.

    Raises:
        CheckpointError: the new target differs from the evaluated checkpoint. The alias stays.
        RegistryUnreachableError: the server did not answer.
        StepError: MLflow refused.
    """
    facts = MergeFacts(
        model_name=model_name,
        recipe_yaml=recipe_yaml,
        recipe_digest=recipe_digest,
        manifest=manifest,
        base=base,
        models=models,
        reports=reports,
        decision=decision,
        compatibility=compatibility,
        profile=profile,
        pipeline_name=pipeline_name,
        prefect_run=prefect_run,
        artifacts=artifacts or {},
        roles=roles,
        warnings=warnings,
    )
    experts = _checked_experts(facts)
    with open_registry(tracking_uri, writing=True) as registry:
        experiment_id = ensure_experiment(registry, experiment)
        # Before anything leads to the store: `mergeflow gc` has to know of every such registry.
        for checkpoint in (manifest.as_source(), base, *experts):
            note_store_of(checkpoint.path, tracking_uri, registry, experiment_id)
        memo = DigestMemo(digest_memo)
        places = {
            checkpoint.digest: where_recorded(registry, checkpoint, memo)
            for checkpoint in (base, *experts, manifest.as_source())
        }
        model_ids = {
            digest: ensure_logged_model(
                registry, experiment_id, places[digest], registered=digest == base.digest
            )
            for digest in (base.digest, *(expert.digest for expert in experts))
        }
        run = ensure_merge_run(registry, experiment_id, facts)
        model_ids[manifest.digest] = ensure_logged_model(
            registry,
            experiment_id,
            places[manifest.digest],
            name=manifest.method,
            run_id=run.info.run_id,
            registered=True,
        )
        if is_recorded(run):
            say_what_is_not_added(registry, run, facts)
        else:
            _record(registry, run, facts, model_ids)
        versions = _versions(registry, facts, run, model_ids)
        keeper = AliasKeeper(registry, model_name, home, serve)
        choice = _Choice(*versions, fall_back_to, champion_seen, places)
        stays = _promote(keeper, facts, run, choice, model_ids, memo, progress)
        return _registration(registry, facts, run, choice, model_ids, stays)


def _record(registry: Registry, run: Run, facts: MergeFacts, model_ids: Mapping[str, str]) -> None:
    """Write everything about the merge; an interrupted record shows as failed until completed."""
    try:
        record_merge(registry, run, facts, model_ids)
        for report in facts.reports:
            record_evaluation(registry, run, facts, report, model_ids[report.checkpoint_digest])
        finish(registry, run.info.run_id)
    except Exception:
        with contextlib.suppress(Exception):
            registry.client.set_terminated(run.info.run_id, "FAILED")
        raise


@dataclass(frozen=True)
class _Choice:
    """What the alias may go to."""

    base: ModelVersion
    candidate: ModelVersion
    fall_back_to: FallBackTo
    seen: Seen
    places: Mapping[str, SourceCheckpoint]
    """By digest: each checkpoint where its record says that it is."""


def _versions(
    registry: Registry, facts: MergeFacts, run: Run, model_ids: Mapping[str, str]
) -> tuple[ModelVersion, ModelVersion]:
    """Register base and merged as versions."""
    name, manifest, decision = facts.model_name, facts.manifest, facts.decision
    ensure_registered_model(registry, name)
    base = ensure_base_version(
        registry, name, facts.base, model_ids[facts.base.digest], facts.roles
    )
    candidate = ensure_candidate_version(
        registry,
        name,
        manifest,
        model_ids[manifest.digest],
        run.info.run_id,
        decision,
        facts.pipeline_name or "",
    )
    return base, candidate


def _promote(
    keeper: AliasKeeper,
    facts: MergeFacts,
    run: Run,
    choice: _Choice,
    model_ids: Mapping[str, str],
    memo: DigestMemo,
    progress: Progress | None,
) -> Holder | None:
    """Let the alias follow the decision; what it stays with, and why, where it does not."""
    registry, name, decision = keeper.registry, keeper.name, facts.decision
    served, checkpoint = choice.base, choice.places[facts.base.digest]
    if decision.promote:
        served, checkpoint = choice.candidate, choice.places[facts.manifest.digest]
    model, version = model_ids[checkpoint.digest], str(served.version)
    state = keeper.settle()
    stays = None
    chosen = state.why_it_stays()
    if chosen is not None and state.holder is not None and state.holder != version:
        stays = Holder(registry.client.get_model_version(name, state.holder), chosen)
    elif not decision.promote:
        digests = (facts.base.digest, facts.suite_digest)
        stays = holder_that_stays(registry, name, *digests, choice.fall_back_to, facts.roles)
    said = Chosen(
        how="run",
        candidate=str(choice.candidate.version),
        digest=checkpoint.digest,
        run_id=run.info.run_id,
        verdict=decision.verdict,
        why=stays.why if stays else None,
        by=decision.approval.by if decision.approval else None,
        files=registry.client.get_run(run.info.run_id).data.tags.get(FILES_TAG),
    )
    if stays is not None:
        digest = stays.version.tags.get(TAG + "digest")
        keeper.keep(replace(said, digest=digest))
    elif state.holder == version:
        check_files_served(registry, served, model, checkpoint)
        keeper.keep(said)
    else:
        look_again = check_bytes_served(registry, served, model, checkpoint, memo, progress)
        registry.client.set_tag(run.info.run_id, TAG + "previous_champion", state.holder or "none")
        why = keeper.move(version, said, seen=choice.seen, last_look=look_again)
        holder = keeper.state().holder if why else None
        if why and holder:
            stays = Holder(registry.client.get_model_version(name, holder), why)
            keeper.keep(replace(said, why=why, digest=stays.version.tags.get(TAG + "digest")))
    return stays


def _registration(
    registry: Registry,
    facts: MergeFacts,
    run: Run,
    choice: _Choice,
    model_ids: Mapping[str, str],
    stays: Holder | None,
) -> Registration:
    champion = champion_version(registry, facts.model_name)
    base = as_record(choice.base, model_ids[facts.base.digest], champion)
    candidate = as_record(choice.candidate, model_ids[facts.manifest.digest], champion)
    if stays is not None:
        holder = as_record(stays.version, stays.version.model_id, champion)
    else:
        holder = candidate if facts.decision.promote else base
    return Registration(
        tracking_uri=registry.address,
        experiment_id=run.info.experiment_id,
        run_id=run.info.run_id,
        base=base,
        candidate=candidate,
        champion=holder,
        champion_stays=stays.why if stays else None,
    )


def _checked_experts(facts: MergeFacts) -> list[SourceCheckpoint]:
    """The models besides the base, each once, after a look whether all the evidence is there."""
    if not facts.model_name.strip() or set(facts.model_name) & set("/:"):
        raise StepError(
            f"'{facts.model_name}' cannot be the name of a registered model",
            where="register",
            mend="use a name without '/' and ':'",
        )
    given = {checkpoint.digest: checkpoint for checkpoint in (facts.base, *facts.models)}
    for item in facts.manifest.inputs:
        if item.digest not in given:
            raise StepError(
                f"the merge lists an input that was not handed over: {item.reference}",
                where="register",
                mend="pass the source checkpoint of every input in `models`",
            )
    evaluated = {report.checkpoint_digest for report in facts.reports}
    strange = evaluated - set(given) - {facts.manifest.digest}
    if strange:
        raise StepError(
            f"an evaluation belongs to no checkpoint of this merge: {min(strange)[:12]}",
            where="register",
            mend="pass reports of the base, the merged checkpoint and the listed models only",
        )
    for checkpoint, name in ((facts.base.digest, "base"), (facts.manifest.digest, "merged")):
        if checkpoint not in evaluated:
            raise StepError(
                f"there is no evaluation of the {name} checkpoint",
                where="register",
                mend="evaluate base and merged on the same suite before registering",
            )
    return list(given.values())[1:]
