"""Registering in a real MLflow: what is recorded, found again, and promoted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.promotion.approval import with_approval
from tasks.records import Approval, Registration
from tasks.registry.client import open_registry, process_tracking_uri
from tasks.registry.register import register_merge
from tests.support.registrations import variant, zoo_merge
from tests.support.registry_contents import (
    Registered,
    artifacts_of,
    champion_holder,
    client,
    everything,
)


def test_a_promoted_merge_is_recorded_with_inputs_output_and_evaluations(
    promoted: Registered,
) -> None:
    result, manifest = promoted.result, promoted.arguments["manifest"]

    api = client(promoted.registry)
    run = api.get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["recipe.merge_method"] == "task_arithmetic"
    assert run.data.params["recipe.models.0.parameters.weight"] == "0.5"
    assert run.data.metrics["merged/zoo_code_bpb/bits_per_byte"] == 2.4
    assert run.data.metrics["base/zoo_code_bpb/bits_per_byte"] == 2.5
    assert run.data.metrics["improvement/zoo_code_bpb/bits_per_byte"] == 0.1
    of_experts = [name for name in run.data.metrics if name.startswith("expert/")]
    assert len(of_experts) == 4, "two experts, two tasks"
    inputs = {api.get_logged_model(item.model_id) for item in run.inputs.model_inputs}
    assert {model.tags["mergeflow.digest"] for model in inputs} == {
        item.digest for item in manifest.inputs
    }
    outputs = [api.get_logged_model(item.model_id) for item in run.outputs.model_outputs]
    assert [model.tags["mergeflow.digest"] for model in outputs] == [manifest.digest]
    assert outputs[0].source_run_id == result.run_id
    artifacts = {item.path for item in api.list_artifacts(result.run_id)}
    assert artifacts >= {"recipe.yaml", "manifest.json", "decision.md", "environment.json"}
    page = Path(api.download_artifacts(result.run_id, "decision.md")).read_text()
    assert page.startswith(f"# {promoted.arguments['pipeline_name']}\n\n## Promoted: ")


def test_each_evaluation_is_a_child_run_with_scores_on_its_model_and_values_of_documents(
    promoted: Registered,
) -> None:
    api, result = client(promoted.registry), promoted.result

    children = api.search_runs(
        [result.experiment_id], f"tags.`mlflow.parentRunId` = '{result.run_id}'"
    )
    by_digest = {run.data.tags["mergeflow.digest"]: run for run in children}
    assert len(children) == len(by_digest) == 4
    for report in promoted.arguments["reports"]:
        run = api.get_run(by_digest[report.checkpoint_digest].info.run_id)
        assert run.info.status == "FINISHED"
        assert run.data.metrics["zoo_code_bpb/bits_per_byte"] == report.scores[0].score
        [model] = [api.get_logged_model(item.model_id) for item in run.inputs.model_inputs]
        assert model.tags["mergeflow.digest"] == report.checkpoint_digest
        logged = {metric.key: metric.value for metric in model.metrics}
        assert logged["zoo_next/acc"] == report.scores[1].score
        stored = json.loads(
            Path(api.download_artifacts(run.info.run_id, "evaluation.json")).read_text()
        )
        assert stored["scores"][0]["values"] == list(report.scores[0].values)
        assert stored["scores"][0]["doc_ids"] == list(report.scores[0].doc_ids)
    parent = api.get_run(result.run_id)
    merged_model = result.candidate.logged_model_id
    assert merged_model not in {item.model_id for item in parent.inputs.model_inputs}


def test_runs_are_found_by_every_tag_a_person_would_search(
    promoted: Registered,
) -> None:
    result, manifest = promoted.result, promoted.arguments["manifest"]
    expert = manifest.inputs[1].digest[:12]

    for condition in (
        f"tags.`mergeflow.recipe_digest` = '{manifest.recipe_digest}'",
        f"tags.`mergeflow.plan_digest` = '{manifest.plan_digest}'",
        f"tags.`mergeflow.object_id` = '{manifest.object_id}'",
        f"tags.`mergeflow.digest` = '{manifest.digest}' and tags.`mergeflow.kind` = 'merge'",
        f"tags.`mergeflow.base_digest` = '{promoted.arguments['base'].digest}'",
        "tags.`mergeflow.verdict` = 'promoted'",
        "tags.`mergeflow.method` = 'task_arithmetic'",
        "tags.`mergeflow.pipeline` = 'good-merge'",
        "tags.`mergeflow.prefect_flow_run_id` = 'run-1'",
        f"tags.`mergeflow.input.{expert}` LIKE '%model%'",
        "metrics.gain > 0 and params.`recipe.merge_method` = 'task_arithmetic'",
    ):
        found = client(promoted.registry).search_runs([result.experiment_id], condition)
        assert [run.info.run_id for run in found] == [result.run_id], condition


def test_a_fall_back_gives_the_alias_to_the_base_and_keeps_the_candidate_visible(
    tiny_zoo: Any, merged: Path, registry: str
) -> None:
    result = register_merge(**zoo_merge(tiny_zoo, merged, registry, promote=False))

    api = client(registry)
    assert champion_holder(registry) == result.base.version
    assert result.champion == result.base
    candidate = api.get_model_version("zoo", result.candidate.version)
    assert candidate.aliases == []
    assert candidate.tags["mergeflow.verdict"] == "fell_back"
    assert candidate.description.startswith("Fell back: task_arithmetic, digest ")
    assert "lost 0.4" in candidate.description


def test_a_fall_back_that_takes_the_alias_notes_who_held_it(
    tiny_zoo: Any, merged: Path, promoted: Registered, after_promotion: str, tmp_path: Path
) -> None:
    worse = variant(merged, tmp_path / "worse", "worse")

    fallen = zoo_merge(tiny_zoo, worse, after_promotion, promote=False)
    bad = register_merge(**fallen, fall_back_to="base")

    good = promoted.result
    assert good.champion == good.candidate
    assert bad.base.version == good.base.version, "one version for one base"
    assert champion_holder(after_promotion) == bad.base.version
    noted = client(after_promotion).get_run(bad.run_id).data.tags["mergeflow.previous_champion"]
    assert noted == good.candidate.version


def test_sources_are_recorded_once_and_reused_by_every_later_merge(
    tiny_zoo: Any, merged: Path, promoted: Registered, after_promotion: str, tmp_path: Path
) -> None:
    other = variant(merged, tmp_path / "other", "other")

    second = register_merge(
        **zoo_merge(tiny_zoo, other, after_promotion, name="other", experiment="other-merges")
    )

    api = client(after_promotion)
    inputs = [
        {item.model_id for item in api.get_run(run_id).inputs.model_inputs}
        for run_id in (promoted.result.run_id, second.run_id)
    ]
    assert promoted.result.experiment_id != second.experiment_id
    assert inputs[0] == inputs[1]


def test_registering_again_gives_the_same_ids_and_adds_nothing(promoted: Registered) -> None:
    again = register_merge(**promoted.arguments)

    assert again == promoted.result
    assert everything(promoted.registry) == promoted.contents


def test_another_prefect_run_of_the_same_merge_is_noted_on_the_same_run(
    promoted: Registered, after_promotion: str
) -> None:
    later = {"tracking_uri": after_promotion, "prefect_run": {"flow_run_id": "run-2"}}

    result = register_merge(**promoted.arguments | later)

    tags = client(after_promotion).get_run(result.run_id).data.tags
    assert result.run_id == promoted.result.run_id
    assert tags["mergeflow.prefect_flow_run_id"] == "run-1"
    assert tags["mergeflow.prefect_last_flow_run_id"] == "run-2"


def test_a_new_decision_on_the_same_merge_is_a_new_run_on_the_same_version(
    tiny_zoo: Any, merged: Path, promoted: Registered, after_promotion: str
) -> None:
    fallen = register_merge(**zoo_merge(tiny_zoo, merged, after_promotion, promote=False))

    assert fallen.run_id != promoted.result.run_id
    assert fallen.candidate.version == promoted.result.candidate.version
    assert fallen.candidate.run_id == fallen.run_id
    version = client(after_promotion).get_model_version("zoo", fallen.candidate.version)
    assert version.tags["mergeflow.verdict"] == "fell_back"


def test_an_answer_stays_with_what_it_was_about(tiny_zoo: Any, merged: Path, registry: str) -> None:
    asked = Approval(approved=False, by="Ada", at="2026-11-28T14:20:05+00:00", flow_run_id="r")
    refused = zoo_merge(tiny_zoo, merged, registry, promote=True)
    refused["decision"] = with_approval(refused["decision"], asked, "8h")
    first = register_merge(**refused)
    api = client(registry)

    def answer() -> str | None:
        version = api.get_model_version(first.candidate.name, first.candidate.version)
        return version.tags.get("mergeflow.approval")

    assert answer() == "declined by Ada, as typed"
    register_merge(**zoo_merge(tiny_zoo, merged, registry, promote=True))
    assert answer() is None, "the version serves, and nobody was asked about that"
    assert api.get_run(first.run_id).data.tags["mergeflow.approval_by"] == "Ada"


def test_the_word_that_made_a_champion_stays_with_it(
    tiny_zoo: Any, merged: Path, registry: str
) -> None:
    asked = Approval(approved=True, by="Ada", at="2026-11-28T14:20:05+00:00", flow_run_id="r")
    unasked = zoo_merge(tiny_zoo, merged, registry, promote=True)
    approved = unasked | {"decision": with_approval(unasked["decision"], asked, "8h")}
    register_merge(**approved)
    again = register_merge(**unasked).candidate
    tags = client(registry).get_model_version(again.name, again.version).tags
    assert tags["mergeflow.approval"] == "approved by Ada, as typed"
    register_merge(**zoo_merge(tiny_zoo, merged, registry, promote=False))
    tags = client(registry).get_model_version(again.name, again.version).tags
    assert "mergeflow.approval" not in tags, "it serves no more, whatever she said"


def failed_experiment(tiny_zoo: Any, tmp_path: Path, registry: str, **changes: Any) -> Registration:
    """Register another merge, which is not promoted."""
    other = variant(tiny_zoo.code_expert, tmp_path / "experiment", "experiment")
    arguments = zoo_merge(tiny_zoo, other, registry, promote=False)
    if "suite_digest" in changes:
        arguments["reports"] = [
            report.model_copy(update={"suite_digest": changes["suite_digest"]})
            for report in arguments["reports"]
        ]
    to = {key: changes[key] for key in ("fall_back_to",) if key in changes}
    return register_merge(**arguments, **to)


def test_a_failed_experiment_leaves_a_champion_that_passed_the_same_test(
    tiny_zoo: Any, promoted: Registered, after_promotion: str, tmp_path: Path
) -> None:
    result = failed_experiment(tiny_zoo, tmp_path, after_promotion)
    assert result.champion.version == promoted.result.champion.version
    assert result.champion.digest == promoted.result.candidate.digest
    assert result.champion_stays == "it passed against this base and this suite"


def test_a_version_of_before_is_known_by_the_evaluations_of_its_run(
    tiny_zoo: Any, promoted: Registered, after_promotion: str, tmp_path: Path
) -> None:
    """Neither versions nor runs had a tag for the suite at commit 5eaacac."""
    version = promoted.result.champion.version
    client(after_promotion).delete_tag(promoted.result.run_id, "mergeflow.suite_digest")
    assert failed_experiment(tiny_zoo, tmp_path, after_promotion).champion.version == version


@pytest.mark.parametrize("changes", [{"suite_digest": "e" * 64}, {"fall_back_to": "base"}])
def test_else_the_base_gets_the_alias(
    tiny_zoo: Any, after_promotion: str, tmp_path: Path, changes: dict[str, Any]
) -> None:
    result = failed_experiment(tiny_zoo, tmp_path, after_promotion, **changes)
    assert result.champion.version == result.base.version
    assert result.champion_stays is None


def test_a_version_that_nobody_vouches_for_makes_way_for_the_base(
    tiny_zoo: Any, promoted: Registered, after_promotion: str, tmp_path: Path
) -> None:
    """As a registry of the commit before has it, which no note of ours says more of."""
    client(after_promotion).delete_registered_model_tag("zoo", "mergeflow.champion")
    source = f"models:/{promoted.result.candidate.logged_model_id}"
    with open_registry(after_promotion, writing=True) as registry, process_tracking_uri(registry):
        by_hand = registry.client.create_model_version("zoo", source)
        registry.client.set_registered_model_alias("zoo", "champion", by_hand.version)
    result = failed_experiment(tiny_zoo, tmp_path, after_promotion)
    assert result.champion.version == result.base.version


def test_a_champion_that_a_person_approved_stays_whatever_the_suite(
    tiny_zoo: Any, merged: Path, registry: str, tmp_path: Path
) -> None:
    asked = Approval(approved=True, by="Ada", at="2026-11-28T14:20:05+00:00", flow_run_id="r")
    good = zoo_merge(tiny_zoo, merged, registry, promote=True)
    serving = register_merge(**good | {"decision": with_approval(good["decision"], asked, "8h")})
    result = failed_experiment(tiny_zoo, tmp_path, registry, suite_digest="e" * 64)
    assert result.champion.version == serving.candidate.version
    assert result.champion_stays == "Ada approved it"


def test_a_checkpoint_that_moved_is_loaded_from_its_new_place(
    tiny_zoo: Any, merged: Path, registry: str, tmp_path: Path
) -> None:
    old = variant(merged, tmp_path / "old", "moved")
    first = register_merge(**zoo_merge(tiny_zoo, old, registry))
    new = old.rename(tmp_path / "new")

    second = register_merge(**zoo_merge(tiny_zoo, new, registry))

    assert second.candidate.logged_model_id == first.candidate.logged_model_id
    model_id = str(second.candidate.logged_model_id)
    files = artifacts_of(registry) / "models" / model_id / "artifacts"
    assert json.loads((files / "checkpoint.json").read_text())["path"] == str(new)
    assert f"local_base_model_path: {new}" in (files / "MLmodel").read_text()
    assert second.candidate.version == first.candidate.version
