"""`mergeflow evaluate --out` and `mergeflow decide`: reports as files, and the decision on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import program
from flows.model_zoo import Zoo
from tasks.evaluation import evaluate as evaluating
from tasks.evaluation.report_file import read_report
from tasks.evaluation.suite import load_suite, suite_digest
from tasks.promotion.rule import PromotionRule
from tasks.records import EvaluationReport
from tests.support.decisions import decide as decided
from tests.tasks.promotion.test_rule import accuracy_task, bits_task, report

BASE = report("base", bits_task("code", 0), accuracy_task("quiz", 200))
CODER = report("code-expert", bits_task("code", -0.2), accuracy_task("quiz", 240))
MERGED = report("merged", bits_task("code", -0.19), accuracy_task("quiz", 235))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with three reports, and no home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERGEFLOW_HOME", str(tmp_path / "home"))
    for name, made in (("base", BASE), ("coder", CODER), ("merged", MERGED)):
        (tmp_path / f"{name}.json").write_text(made.model_dump_json())
    (tmp_path / "rule.yaml").write_text("gate: calibrated\n")
    return tmp_path


def test_a_decision_from_files_is_that_of_the_step(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["decide", "base.json", "merged.json", "--expert", "coder.json"]
    assert program.run([*command, "--rule", "rule.yaml", "--json"]) == 0
    rule = PromotionRule(gate="calibrated")
    expected = decided(MERGED, BASE, rule, [CODER]).model_dump(mode="json")
    assert json.loads(capsys.readouterr().out) == expected
    assert program.run([*command, "--json"]) == 0, "without a rule: a pipeline's own"
    expected = decided(MERGED, BASE, PromotionRule(), [CODER]).model_dump(mode="json")
    assert json.loads(capsys.readouterr().out) == expected
    assert not (here / "home").exists(), "nothing is needed but the files"


def test_a_person_reads_the_scores_the_verdict_and_why(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run(["decide", "merged.json", "base.json", "--rule", "rule.yaml"]) == 3
    said = capsys.readouterr().out
    assert said.count("Fell back: the base stays\n") == 1
    assert "quiz got worse by 0.0875 in accuracy" in said
    (here / "pipeline.yaml").write_text(
        "name: x\npromote: {gate: calibrated, guard_margin: 0.3, exceed: -0.3}\n"
    )
    assert program.run(["decide", "merged.json", "base.json", "--rule", "pipeline.yaml"]) == 0
    assert "more than a loss of 0.3 units is asked for" in capsys.readouterr().out


def _changed(**changes: Any) -> str:
    values = json.loads(MERGED.model_dump_json())
    for path, value in changes.items():
        place = values
        *steps, last = path.split("__")
        for step in steps:
            place = place[int(step) if step.isdigit() else step]
        place[last] = value
    return json.dumps(values)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON as it is written here"),
        ("[]", "is no report of an evaluation"),
        (_changed(scores=[]), "has no scores"),
        (_changed(more=1), "more: is not known"),
        (_changed(scores__0__score=0.5), "the score of task 'code' is 0.5, and its documents make"),
        (_changed(scores__0__task="quiz"), "has task 'quiz' twice"),
        (_changed(scores__0__task="prose"), "does not have the same scores as base.json"),
        (_changed(scores__1__weights=[-1.0] * 400), "has no documents, or weights below 0"),
        (_changed(suite_digest="e" * 64), "were made with different suites"),
        (_changed(scores__1__doc_ids=["x"] * 400), "are not of the same documents in task 'quiz'"),
        (_changed(scores__1__clusters=["x"]), "documents and clusters are not as many"),
        (_changed(scores__1__not_finite_at=[3]), "without a finite score are not those"),
    ],
)
def test_what_is_no_report_is_bad_input(
    here: Path, capsys: pytest.CaptureFixture[str], content: str, said: str
) -> None:
    (here / "bad.json").write_text(content)
    for rule in ([], ["--rule", "rule.yaml"]):
        assert program.run(["decide", "base.json", "bad.json", *rule]) == 2
        assert said in " ".join(capsys.readouterr().err.split())


def test_a_rule_of_both_gates_and_a_missing_file_are_bad_input(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "mixed.yaml").write_text("{gate: calibrated, min_gain: 0.1}")
    assert program.run(["decide", "base.json", "merged.json", "--rule", "mixed.yaml"]) == 2
    assert "min_gain is no key of the calibrated gate; write exceed" in capsys.readouterr().err
    assert program.run(["decide", "base.json", "nowhere.json"]) == 2
    assert "nowhere.json: cannot be read" in capsys.readouterr().err


def test_a_candidate_that_could_not_be_evaluated_falls_back(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "died.json").write_text(_changed(scores=[], failure="it was killed"))
    assert program.run(["decide", "base.json", "died.json", "--rule", "rule.yaml"]) == 3
    assert "could not be evaluated: it was killed" in capsys.readouterr().out


def test_real_evaluations_are_written_once_taken_from_the_cache_and_decided(
    tiny_zoo: Zoo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERGEFLOW_HOME", str(tmp_path / "home"))
    shutil.copytree(tiny_zoo.suite, tmp_path / "suite")
    file = tmp_path / "suite" / "suite.yaml"
    values = yaml.safe_load(file.read_text())
    values["tasks"] = [task for task in values["tasks"] if task["task"].endswith("bpb")][:1]
    del values["tasks"][0]["cluster"]
    file.write_text(yaml.safe_dump(values))
    plain = suite_digest(load_suite(file))
    field = _first_field(load_suite(file).directory)
    values["tasks"][0]["cluster"] = field
    file.write_text(yaml.safe_dump(values))
    assert suite_digest(load_suite(file)) != plain
    models = {"base": tiny_zoo.base, "expert": tiny_zoo.directory / "code-expert"}
    for name, model in models.items():
        assert program.run(["evaluate", str(model), "suite", "--out", f"{name}.json"]) == 0
    base = read_report(tmp_path / "base.json")
    (score,) = base.scores
    assert score.clusters is not None
    assert len(score.clusters) == len(score.doc_ids)
    assert (score.non_finite, score.not_finite_at) == (0, None)

    def fail(*_: object, **__: object) -> EvaluationReport:
        raise AssertionError("it is in the cache")

    monkeypatch.setattr(evaluating, "evaluate_checkpoint", fail)
    capsys.readouterr()
    assert program.run(["evaluate", str(tiny_zoo.base), "suite", "--out", "again.json"]) == 0
    assert "evaluated before; the report is in again.json" in capsys.readouterr().out
    assert read_report(tmp_path / "again.json") == base
    assert program.run(["evaluate", str(tiny_zoo.base), "suite", "--out", "again.json"]) == 2
    assert "again.json: exists already" in capsys.readouterr().err
    (tmp_path / "rule.yaml").write_text("gate: calibrated\n")
    command = ["decide", "base.json", "expert.json", "--rule", "rule.yaml", "--json"]
    assert program.run(command) in (0, 3)
    decision = json.loads(capsys.readouterr().out)
    assert decision["gate"]["tasks"][0]["groups"] == len(set(score.clusters))
    assert program.run(["decide", "base.json", "again.json", "--rule", "rule.yaml"]) == 3
    assert "the baseline itself: nothing to promote" in capsys.readouterr().out


def _first_field(suite: str) -> str:
    """A field of the first document of the suite's data."""
    data = sorted(Path(suite).rglob("*.jsonl"))[0]
    return str(next(iter(json.loads(data.read_text().splitlines()[0]))))


@pytest.mark.slow
def test_an_anchor_has_to_be_beaten_too_and_the_picture_is_drawn(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["decide", "base.json", "merged.json", "--anchor", "coder.json"]
    assert program.run([*command, "--picture", "p.png"]) == 3
    said = " ".join(capsys.readouterr().out.split())
    assert "against the champion: the merged checkpoint is better than the champion" in said
    assert "code-expert is the same in every run, so it has to be beaten more surely" in said
    assert (here / "p.png").read_bytes().startswith(b"\x89PNG")
    assert program.run([*command, "--picture", "p.png"]) == 2
    assert "p.png: exists already" in capsys.readouterr().err
    (here / "former.yaml").write_text("max_regression: 0.02\n")
    for options in (["--anchor", "coder.json"], ["--picture", "q.png"]):
        asked = ["decide", "base.json", "merged.json", "--rule", "former.yaml", *options]
        assert program.run(asked) == 2
        assert f"{options[0]} is for the calibrated gate" in capsys.readouterr().err
    assert program.run(["decide", "base.json", "merged.json", "--rule", "former.yaml"]) == 0
    assert "the former gate decides" in " ".join(capsys.readouterr().out.split())
