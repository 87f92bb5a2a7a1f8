"""What a person finds in MLflow's pages: few tags, tables, data sets, links, each score once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.promotion.approval import with_approval
from tasks.records import Approval
from tasks.registry.register import register_merge
from tasks.registry.runs import link_to_prefect
from tests.support.registrations import variant, zoo_merge
from tests.support.registry_contents import Registered, client

FORMER = {
    "mergeflow.role": "merged",
    "mergeflow.method": "task_arithmetic",
    "mergeflow.base_digest": "0" * 64,
    "mergeflow.suite_digest": "0" * 64,
    "mergeflow.reasons": "of another decision",
    "mergeflow.approval": "approved",
    "mergeflow.approval_by": "Ada",
    "mergeflow.approval_comment": "read it all",
}
"""Some of the tags that versions had at commit 4c7cd13."""


def table(registry: str, run_id: str, name: str) -> list[dict[str, Any]]:
    content = json.loads(Path(client(registry).download_artifacts(run_id, name)).read_text())
    return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def children(registry: str, run_id: str) -> dict[str, Any]:
    api = client(registry)
    [experiment] = {api.get_run(run_id).info.experiment_id}
    found = api.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return {run.data.tags["mergeflow.role"]: api.get_run(run.info.run_id) for run in found}


def test_a_version_has_few_tags_and_the_verdict_is_the_first(promoted: Registered) -> None:
    version = client(promoted.registry).get_model_version("zoo", "2")
    assert [*version.tags] == [
        f"mergeflow.{key}" for key in ("verdict", "digest", "run_id", "pipeline")
    ]
    base = client(promoted.registry).get_model_version("zoo", "1")
    assert len(base.tags) <= 5
    assert version.description.startswith("Promoted: task_arithmetic, digest ")
    assert "\n\n* zoo_code_bpb gained 0.1" in version.description


@pytest.mark.slow
def test_a_person_who_was_asked_is_the_fifth(tiny_zoo: Any, merged: Path, registry: str) -> None:
    asked = Approval(approved=True, by="Ada", at="2026-11-28T14:20:05+00:00", flow_run_id="r")
    arguments = zoo_merge(tiny_zoo, merged, registry)
    arguments["decision"] = with_approval(arguments["decision"], asked, "8h")
    arguments["prefect_run"] = {"flow_run_name": "wise-owl", "url": "http://127.0.0.1:4200/x"}
    registered = register_merge(**arguments)
    found, run = registered.candidate, client(registry).get_run(registered.run_id)
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith(
        "Run in Prefect: [wise-owl](http://127.0.0.1:4200/x)\n\n# good-merge\n\n## "
    )
    tags = client(registry).get_model_version("zoo", found.version).tags
    assert len(tags) == 5
    assert tags["mergeflow.approval"] == "approved by Ada, as typed"


@pytest.mark.slow
def test_a_version_of_before_keeps_its_tags_until_a_run_is_registered_on_it(
    tiny_zoo: Any, merged: Path, promoted: Registered, after_promotion: str, tmp_path: Path
) -> None:
    api = client(after_promotion)
    for key, value in FORMER.items():
        api.set_model_version_tag("zoo", "2", key, value)
    other = variant(merged, tmp_path / "other", "other")
    beside = register_merge(**zoo_merge(tiny_zoo, other, after_promotion, promote=False))
    assert beside.champion_stays == "Ada approved it", "as the version of before says it"
    assert FORMER.items() <= api.get_model_version("zoo", "2").tags.items()

    register_merge(**promoted.arguments | {"tracking_uri": after_promotion})
    version = api.get_model_version("zoo", "2")
    assert {key.removeprefix("mergeflow.") for key in version.tags} == {
        *("verdict", "digest", "run_id", "pipeline", "approval")
    }
    assert version.tags["mergeflow.approval"] == "approved by Ada, as typed"
    again = register_merge(**zoo_merge(tiny_zoo, other, after_promotion, promote=False))
    assert again.champion_stays == "Ada approved it"


def test_scores_and_documents_are_tables(promoted: Registered) -> None:
    run_id = promoted.result.run_id
    scores = table(promoted.registry, run_id, "scores.json")
    assert [*scores[0]][:5] == ["task", "base", "merged", "better by", "outcome"]
    assert (scores[0]["task"], scores[0]["base"], scores[0]["merged"]) == ("zoo_code_bpb", 2.5, 2.4)
    assert (scores[0]["outcome"], scores[1]["outcome"]) == ("held", "")
    documents = table(promoted.registry, run_id, "documents.json")
    assert len(documents) == 6, "three documents of two tasks"
    assert {"base", "merged", "expert/code-expert"} <= {*documents[0]}
    listed = client(promoted.registry).get_run(run_id).data.tags["mlflow.loggedArtifacts"]
    assert {each["path"] for each in json.loads(listed)} == {"scores.json", "documents.json"}
    for role, child in children(promoted.registry, run_id).items():
        rows = table(promoted.registry, child.info.run_id, "documents.json")
        assert [row["document"] for row in rows] == ["doc-a", "doc-b", "doc-c"] * 2, role


def test_the_documents_of_a_task_are_a_data_set(promoted: Registered) -> None:
    run = client(promoted.registry).get_run(promoted.result.run_id)
    found = {item.dataset.name: item.dataset for item in run.inputs.dataset_inputs}
    assert set(found) == {"zoo_code_bpb", "zoo_next"}
    assert json.loads(found["zoo_next"].profile) == {"documents": 3}
    source = json.loads(found["zoo_next"].source)
    assert (source["suite"], source["task"]) == ("zoo", "zoo_next")
    child = children(promoted.registry, promoted.result.run_id)["merged"]
    [model] = child.inputs.model_inputs
    on = {
        metric.key: metric.dataset_name
        for metric in client(promoted.registry).get_logged_model(model.model_id).metrics
    }
    assert on["zoo_next/acc"] == "zoo_next"


@pytest.mark.slow
def test_scores_that_were_found_in_the_cache_are_on_the_model_once(
    tiny_zoo: Any, merged: Path, promoted: Registered, after_promotion: str, tmp_path: Path
) -> None:
    other = variant(merged, tmp_path / "other", "other")
    second = register_merge(**zoo_merge(tiny_zoo, other, after_promotion, promote=False))
    api = client(after_promotion)
    ours = children(after_promotion, second.run_id)
    assert ours["base"].data.metrics["zoo_next/acc"] == 0.4, "its own run has them"
    [model] = ours["base"].inputs.model_inputs
    metrics = api.get_logged_model(model.model_id).metrics
    assert [metric.value for metric in metrics if metric.key == "zoo_next/acc"] == [0.4]
    [own] = ours["merged"].inputs.model_inputs
    assert any(each.key == "zoo_next/acc" for each in api.get_logged_model(own.model_id).metrics)


def test_a_run_has_the_name_that_it_has_in_prefect(promoted: Registered) -> None:
    run = client(promoted.registry).get_run(promoted.result.run_id)
    assert run.info.run_name == "wise-owl"


@pytest.mark.parametrize(
    ("address", "link"),
    [
        (
            "http://127.0.0.1:4200/v2/runs/flow-run/x",
            "Run in Prefect: [wise-owl](http://127.0.0.1:4200/v2/runs/flow-run/x)\n\n",
        ),
        ("http://user:secret@host/runs/x", "Run in Prefect: [wise-owl](http://host/runs/x)\n\n"),
        ("javascript:alert(1)", ""),
        ("http://host/x) [more](http://evil", ""),
        (None, ""),
    ],
)
def test_the_description_of_a_run_begins_with_a_link_to_it_in_prefect(
    address: str | None, link: str
) -> None:
    assert link_to_prefect({"flow_run_name": "wise-owl", "url": address}) == link


def test_experiment_and_model_say_what_they_are(promoted: Registered) -> None:
    api = client(promoted.registry)
    experiment = api.get_experiment(promoted.result.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "`mergeflow audit`" in experiment.tags["mlflow.note.content"]
    assert "mergeflow history zoo" in api.get_registered_model("zoo").description


@pytest.mark.slow
def test_what_a_person_wrote_of_an_experiment_stays(
    promoted: Registered, after_promotion: str
) -> None:
    api, number = client(after_promotion), promoted.result.experiment_id
    api.set_experiment_tag(number, "mlflow.note.content", "ours")
    register_merge(**promoted.arguments | {"tracking_uri": after_promotion})
    assert api.get_experiment(number).tags["mlflow.note.content"] == "ours"
