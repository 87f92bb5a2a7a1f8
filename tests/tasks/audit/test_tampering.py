"""Kinds of tampering, each done for real in a home of its own, and each named by the audit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from merge_core.homes.home import Home
from tasks.audit.audit import audit_all, audit_version
from tasks.audit.report import AuditReport
from tasks.lineage.trace import lineage
from tasks.registry.chosen_by_hand import promote
from tasks.registry.client import open_registry
from tasks.registry.faults import RegistryUnreachableError
from tasks.registry.history_report import report_history
from tests.support.audited import Audited
from tests.support.edited_objects import flip
from tests.support.merge_store import clear_away
from tests.support.tampering import KINDS as OF_THE_RECORD
from tests.support.tampering import Tamperer
from tests.support.tampering_history import KINDS as OF_HISTORY
from tests.support.tampering_history import ON_VERSION_3
from tests.support.tampering_lines import KINDS as OF_LINES
from tests.support.tampering_pages import KINDS as OF_PAGES
from tests.support.tampering_pages import unlisted
from tests.support.tampering_runs import KINDS as OF_RUNS
from tests.support.tampering_texts import KINDS as OF_TEXTS

URI = "models:/model/2"
DIGEST = "mergeflow.digest"
KINDS = OF_THE_RECORD | OF_HISTORY | OF_LINES | OF_PAGES | OF_RUNS | OF_TEXTS


@pytest.fixture
def home(audited: Audited, tmp_path: Path) -> Iterator[Audited]:
    """A copy to tamper with."""
    yield audited.copied(tmp_path)
    clear_away(Home(tmp_path))


def follow(home: Audited) -> None:
    """Let the database of a copy lead to the copy, as the first command does."""
    with open_registry(home.registry):
        pass


OF_THE_OTHER = {"an approval on the version"} | ON_VERSION_3
QUICK = {"a bit of the weights", "a page of the record"}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.slow) for kind in KINDS],
)
def test_each_kind_of_tampering_is_named(home: Audited, kind: str) -> None:
    tamper, check, said = KINDS[kind]
    follow(home)
    tamper(Tamperer(home))
    uri = "models:/model/3" if kind in OF_THE_OTHER else URI
    report = audit_version(home.home, uri, home.registry)
    named = [answer for answer in report.of("fails") if answer.check == check]
    assert named, report.of("fails")
    assert any(said in answer.what for answer in named), named


def test_there_are_kinds_enough() -> None:
    assert len(KINDS) >= 30


def test_a_sound_registry_holds_in_everything(audited: Audited) -> None:
    reports = list(audit_all(audited.home, audited.registry))
    assert [report.model_uri for report in reports] == [f"models:/model/{n}" for n in (1, 2, 3)]
    assert [
        answer for report in reports for answer in report.answers if answer.outcome != "holds"
    ] == []
    assert [len(report.answers) for report in reports] == [5, 15, 15]


@pytest.mark.slow
def test_inputs_that_changed_are_named(audited: Audited, home: Audited) -> None:
    weights = audited.tuned / "model.safetensors"
    before = flip(weights)
    try:
        failing = audit_version(home.home, URI, home.registry).of("fails")
    finally:
        weights.write_bytes(before)
    assert [answer.check for answer in failing] == ["parents"]
    assert "model.safetensors has changed" in failing[0].what


@pytest.mark.slow
def test_a_checkpoint_that_is_not_here_cannot_be_looked_at(home: Audited, tmp_path: Path) -> None:
    follow(home)
    shutil.rmtree(home.home.objects)
    elsewhere = Home(tmp_path / "another")
    report = audit_version(elsewhere, URI, home.registry)
    assert {answer.check for answer in report.of("unknown")} >= {"files", "description", "alias"}
    assert report.holds, report.of("fails")


@pytest.mark.slow
def test_what_a_person_promoted_holds_as_well(home: Audited) -> None:
    promote(home.home, home.registry, "model", "3", why="it is faster", by="Ada")
    report: AuditReport = audit_version(home.home, "models:/model@champion", home.registry)
    assert report.holds, report.of("fails")
    assert "version 3 has it, pinned" in report.of("holds")[-1].what


@pytest.mark.slow
def test_a_run_of_before_rules_were_kept_is_decided_again_by_its_parameters(home: Audited) -> None:
    follow(home)
    at = Tamperer(home)
    at.artifact("rule.json").unlink()
    unlisted(at)
    report = audit_version(home.home, URI, home.registry)
    assert report.holds
    said = [answer for answer in report.answers if answer.check == "decision"]
    assert "rebuilt" in said[-1].what


@pytest.mark.slow
def test_what_people_may_add_and_change_is_no_tampering(home: Audited) -> None:
    follow(home)
    at = Tamperer(home)
    api, said = at.api, at.version.description
    api.set_model_version_tag("model", "2", "team", "search")
    api.set_registered_model_tag("model", "owner", "me")
    api.set_tag(at.run_id, "reviewed", "yes")
    for alias in ("production", "champion-eu", "ex-champion", "本番"):
        api.set_registered_model_alias("model", alias, "3")
    api.update_registered_model("model", "Our own words.")
    api.update_model_version("model", "2", f"{said}\n\nOur own words.")
    api.update_run(at.run_id, name="the good one")
    api.rename_experiment(at.run.info.experiment_id, "ours")
    api.delete_model_version("model", "3")
    answers = audit_version(home.home, URI, home.registry).answers
    assert {answer.outcome for answer in answers} == {"holds"}
    own = api.create_run(at.run.info.experiment_id)
    api.log_metric(own.info.run_id, "our_score", 0.9, model_id=at.model_id)
    report = audit_version(home.home, URI, home.registry)
    assert report.holds, report.of("fails")
    [unknown] = report.of("unknown")
    assert "our_score of a run that mergeflow did not make" in unknown.what


@pytest.mark.slow
def test_the_other_commands_live_with_what_the_audit_names(home: Audited) -> None:
    follow(home)
    at = Tamperer(home)
    KINDS["a time in no year"][0](at)
    assert lineage(URI, home.registry).nodes[0].merge is not None
    KINDS["lines of the history in another order"][0](at)
    [chain] = report_history(home.home, home.registry, "model").chains
    assert chain.problems[0].startswith("line 2 cannot stand there")
    promote(home.home, home.registry, "model", "2", why="it is the right one")
    assert report_history(home.home, home.registry, "model").holder == "2"


@pytest.mark.slow
def test_a_version_that_mlflow_copied_is_told_from_the_one_it_is_a_copy_of(home: Audited) -> None:
    follow(home)
    at = Tamperer(home)
    api = at.api
    api.create_registered_model("production")
    at.sql(
        "INSERT INTO model_versions (name, version, source, current_stage, status, creation_time,"
        " workspace) SELECT 'production', 1, 'models:/model/2', 'None', status, creation_time,"
        " workspace FROM model_versions WHERE version = 2"
    )
    api.set_model_version_tag("production", "1", "mergeflow.digest", at.version.tags[DIGEST])
    failing = audit_version(home.home, "models:/production/1", home.registry).of("fails")
    assert [answer.check for answer in failing] == ["way"]
    assert "is a copy of models:/model/2 that mergeflow did not make" in failing[0].what


@pytest.mark.slow
def test_files_on_a_server_that_is_away_are_not_called_missing(
    home: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    follow(home)
    at = Tamperer(home)
    away = "http://127.0.0.1:9/api/2.0/mlflow-artifacts/artifacts"
    at.sql("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", away, at.run_id)
    with pytest.raises(RegistryUnreachableError, match="does not answer"):
        audit_version(home.home, URI, home.registry)


@pytest.mark.slow
def test_a_model_without_our_tag_is_audited_and_one_that_is_gone_is_told(home: Audited) -> None:
    follow(home)
    api = Tamperer(home).api
    api.delete_registered_model_tag("model", "mergeflow.model")
    assert len(list(audit_all(home.home, home.registry))) == 3
    api.delete_registered_model("model")
    [gone] = audit_all(home.home, home.registry)
    [answer] = gone.of("fails")
    assert gone.model_uri == "models:/model"
    assert "the model is gone from the registry, deleted or renamed" in answer.what
