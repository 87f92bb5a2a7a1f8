"""The statement: what it says of a merge, in the standards' own types, and what it leaves out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from merge_core.files.digests import digest_of
from tasks.records import Approval
from tasks.signing.envelope import UnsoundError
from tasks.signing.statement import SeenHistory, differences, seen_history, statement_of
from tests.support.signed import SEEN, facts


def provenance(statement: dict[str, Any]) -> Any:
    """The predicate in SLSA's own type. A field that it does not know is an error."""
    return json_format.ParseDict(statement["predicate"], provenance_pb2.Provenance())


def named(items: Any) -> dict[str, Any]:
    found = {item.name: item for item in items}
    assert len(found) == len(items)
    return found


def test_the_libraries_of_in_toto_and_slsa_read_it() -> None:
    made = statement_of(facts(), SEEN)
    parsed = json_format.ParseDict(made, statement_pb2.Statement())
    Statement.copy_from_pb(parsed).validate()
    assert {each.name: each.digest["sha256"] for each in parsed.subject} == {
        "SHA256SUMS": digest_of("object"),
        "model.safetensors": digest_of("/merged"),
    }
    assert parsed.predicate_type == "https://slsa.dev/provenance/v1"
    build = provenance(made).build_definition
    assert build.build_type == "urn:mergeflow:merge:v1"
    said = json_format.MessageToDict(build.external_parameters)
    assert said["recipe"] == "merge_method: linear\n# über\n"
    assert said["suite"] == {"name": "zoo", "digest": digest_of("suite")}
    assert said["rule"] == {"exceed": 0.0}


def test_every_source_is_named_with_digest_and_commit() -> None:
    sources = named(provenance(statement_of(facts(), SEEN)).build_definition.resolved_dependencies)
    base = sources["base: org/base@main"]
    assert base.uri == "org/base@main"
    assert base.digest["gitCommit"] == "c0ffee"
    assert base.digest["mergeflowModel"] == facts().manifest.inputs[0].digest
    adapter = sources["adapter: models:/zoo@champion"]
    assert adapter.annotations["version"] == "models:/zoo/4"
    assert sources["model: ./runs/code"].digest["mergeflowModel"] == digest_of("code")
    assert sources["suite: suite.yaml"].digest["sha256"] == digest_of("suite file")


def test_evaluations_decision_approver_and_history_are_in_it() -> None:
    yes = Approval(approved=True, by="Ada", comment="ok", at="2026-01-01", flow_run_id="7")
    approved = facts(decision=facts().decision.model_copy(update={"approval": yes}))
    details = provenance(statement_of(approved, SEEN)).run_details
    made = named(details.byproducts)
    assert made["evaluation: merged"].annotations["scores"]["zoo_next/acc"] == 0.5
    decision = made["decision.json"]
    assert decision.digest["sha256"] == digest_of("decision")
    assert decision.annotations["verdict"] == "promoted"
    assert decision.annotations["approval"]["by"] == "Ada"
    assert decision.annotations["approval"]["name"] == "as typed, not checked"
    assert made["history"].annotations["lines"] == 4
    assert made["history"].digest["sha256"] == SEEN.head.digest
    assert made["registered version"].uri == "models:/zoo/2"
    assert details.builder.version["mergeflow commit"] == "beef"
    assert details.metadata.started_on.ToJsonString() == "2026-01-01T00:00:00Z"
    assert details.metadata.invocation_id == "mlflow-run:0123"


def test_it_names_no_place_of_the_machine() -> None:
    assert "/hub" not in json.dumps(statement_of(facts(), SEEN))
    assert "/runs/code" not in json.dumps(statement_of(facts(), SEEN)).replace("./runs/code", "")
    assert "somebody" not in json.dumps(statement_of(facts(), SEEN))


def test_a_merge_of_before_locks_were_kept_names_what_its_manifest_does() -> None:
    build = provenance(statement_of(facts(lock=None, rule=None), None)).build_definition
    assert set(named(build.resolved_dependencies)) == {
        "base: org/base@main",
        "model: ./runs/code+models:/zoo@champion",
    }


def test_the_same_record_gives_the_same_statement() -> None:
    assert differences(statement_of(facts(), SEEN), statement_of(facts(), SEEN)) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": "other"}, "externalParameters.recipe"),
        ({"rule": {"exceed": 1.0}}, "rule.exceed is 0.0 in the statement and 1.0 in the record"),
        ({"address": "models:/zoo/3"}, "byproducts[registered version].uri"),
        ({"run_id": "4567"}, "invocationId"),
        ({"files": {"decision.json": "0" * 64}}, "byproducts[decision.json].digest.sha256"),
        ({"environment": {"python": "2.7"}}, "builder.version.python"),
        ({"started": "2025"}, "startedOn"),
        ({"lock": None}, "resolvedDependencies"),
    ],
)
def test_what_the_record_says_otherwise_is_named(changes: dict[str, Any], said: str) -> None:
    found = differences(statement_of(facts(), SEEN), statement_of(facts(**changes), SEEN))
    assert any(said in each for each in found), found


def test_a_name_that_comes_twice_hides_nothing() -> None:
    signed, now = statement_of(facts(), SEEN), statement_of(facts(), SEEN)
    signed["subject"].append(signed["subject"][0] | {"digest": {"sha256": "0"}})
    assert differences(signed, now)


def test_the_head_of_the_history_is_read_as_it_was_written() -> None:
    assert seen_history(statement_of(facts(), SEEN)) == SEEN
    assert seen_history(statement_of(facts(), None)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"chain": "../../etc"},
        {"chain": 7},
        {"lines": True},
        {"lines": "4"},
        {"lines": 4.0},
    ],
)
def test_a_head_of_another_form_is_refused(change: dict[str, Any]) -> None:
    made = statement_of(facts(), SEEN)
    made["predicate"]["runDetails"]["byproducts"][-1]["annotations"] |= change
    with pytest.raises(UnsoundError):
        seen_history(made)


def test_two_heads_are_none() -> None:
    made = statement_of(facts(), SEEN)
    other = statement_of(facts(), SeenHistory(SEEN.chain, replace(SEEN.head, number=1)))
    heads = [each["predicate"]["runDetails"]["byproducts"] for each in (made, other)]
    heads[0].append(heads[1][-1])
    with pytest.raises(UnsoundError):
        seen_history(made)
