"""A registry as it grows: a merge, a merge of merges, an average, a fall-back, a rollback by hand,
a copy that somebody registered. Each question of an auditor has a command that answers it: where
is it from, what was it tested on, who let it through, can it be built again, was it touched?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from flows.average import average_checkpoints
from flows.cli import program
from flows.merge import merge_pipeline
from flows.model_zoo import Zoo
from flows.settings.averaging import Averaging
from flows.settings.pipeline import Pipeline
from flows.stack.prefect_session import PrefectSession
from merge_core.files.digests import fingerprint
from merge_core.homes.home import Home
from tasks.evaluation.suite import load_suite, suite_digest
from tasks.records import MergeOutcome
from tasks.registry.client import default_tracking_uri, open_registry, process_tracking_uri

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LENIENT = {"max_regression": 1.0, "min_gain": -1.0, "min_documents": 5}
STRICT = {"max_regression": 0.0, "min_gain": 0.0, "min_documents": 5}
MERGES = ("models:/zoo/2", "models:/second/2", "models:/average/2", "models:/zoo/3")
"""A merge, a merge of merges, an average, and one that fell back."""


@dataclass
class Grown:
    """The home, and what its runs came to."""

    home: Home
    zoo: Zoo
    suite: Path
    copy: Path
    """A copy of the first merge's files, which somebody registered as `models:/copy/1`."""
    outcomes: dict[str, MergeOutcome] = field(default_factory=dict)

    def merge(self, name: str, base: str, models: list[str], weight: float, **more: Any) -> None:
        rows = [{"model": each, "parameters": {"weight": weight}} for each in models]
        recipe = {"merge_method": "task_arithmetic", "base_model": base, "models": rows}
        values = {"name": name, "recipe": recipe, **self.common("zoo"), **more}
        state = merge_pipeline(Pipeline.model_validate(values), return_state=True)
        self.outcomes[name] = state.result()

    def common(self, model: str, rule: dict[str, Any] | None = None) -> dict[str, Any]:
        return {
            "evaluate": {"suite": str(self.suite), "experts": False, "parallel": 2},
            "promote": rule or LENIENT,
            "register": {"model": model},
        }


@pytest.fixture(scope="module")
def grown(
    tiny_zoo: Zoo,
    prefect: PrefectSession,
    tmp_path_factory: pytest.TempPathFactory,
    quick_database: None,
) -> Iterator[Grown]:
    directory = tmp_path_factory.mktemp("grown")
    shutil.copytree(tiny_zoo.suite, directory / "suite")
    suite = yaml.safe_load((directory / "suite" / "suite.yaml").read_text())
    suite["tasks"] = [task for task in suite["tasks"] if task["task"] == "zoo_prose_bpb"]
    (directory / "suite" / "suite.yaml").write_text(yaml.safe_dump(suite))
    here = Grown(Home(directory / "home"), tiny_zoo, directory / "suite", directory / "copy")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MERGEFLOW_HOME", str(here.home.path))
        with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: str(here.home.cache)}):
            grow(here, directory)
            yield here


@pytest.fixture(autouse=True)
def _in_use(home: Home, grown: Grown, monkeypatch: pytest.MonkeyPatch) -> None:
    """`home` is the one that every other test gets."""
    monkeypatch.setenv("MERGEFLOW_HOME", str(grown.home.path))


def grow(here: Grown, directory: Path) -> None:
    base, code, prose = (
        str(each) for each in (here.zoo.base, here.zoo.code_expert, here.zoo.prose_expert)
    )
    here.merge("first", base, [code, prose], 0.5)
    here.merge("second", base, ["models:/zoo@champion", code], 0.3, **here.common("second"))
    shutil.copytree(here.zoo.run("prose"), directory / "run")
    averaging = {
        "name": "average",
        "training": {"run": str(directory / "run"), "marker": "trainer_state.json"},
        "average": {"schedule": "uniform"},
        **here.common("average"),
    }
    state = average_checkpoints(Averaging.model_validate(averaging), return_state=True)
    here.outcomes["average"] = state.result()
    here.merge("worse", base, [code, prose], 6.0, **here.common("zoo", STRICT))
    assert program.run(["rollback", "zoo", "--to", "1", "--why", "the canary failed"]) == 0
    shutil.copytree(here.outcomes["first"].merged.path, here.copy)
    uri = default_tracking_uri(here.home)
    with open_registry(uri, writing=True) as registry, process_tracking_uri(registry):
        registry.client.create_registered_model("copy")
        registry.client.create_model_version("copy", str(here.copy))


def ask(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    """What a command answers as JSON."""
    capsys.readouterr()
    assert program.run([*arguments, "--json"]) == code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_the_registry_is_what_it_is_said_to_be(grown: Grown) -> None:
    states = {name: outcome.state for name, outcome in grown.outcomes.items()}
    assert states == {
        "first": "Promoted",
        "second": "Promoted",
        "average": "Promoted",
        "worse": "FellBack",
    }


def test_where_is_it_from(grown: Grown, capsys: pytest.CaptureFixture[str]) -> None:
    told = ask(capsys, "lineage", "models:/second@champion")
    nodes = {node["digest"]: node for node in told["nodes"]}
    first = grown.outcomes["first"].merged
    assert nodes[first.digest]["merge"]["object_id"] == first.object_id
    for directory in (grown.zoo.base, grown.zoo.code_expert, grown.zoo.prose_expert):
        assert any(node["path"] == str(directory) for node in nodes.values())
    of_average = ask(capsys, "lineage", "models:/average@champion")
    used = of_average["nodes"][0]["inputs"]
    assert {Path(each["reference"]).name for each in used} == {"checkpoint-6", "checkpoint-12"}
    within = ask(capsys, "lineage", "--contains", "models:/zoo/2")
    assert {each["model_uri"] for each in within["versions"]} == {
        "models:/zoo/2",
        "models:/second/2",
    }


def test_a_copy_without_our_tags_is_known_by_its_files(
    grown: Grown, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert program.run(["lineage", "models:/copy/1"]) == 2
    said = capsys.readouterr().err
    assert "this version was not registered by mergeflow" in said
    assert "`mergeflow lineage --contains DIR`; it was made from" in said
    within = ask(capsys, "lineage", "--contains", str(grown.copy))
    assert within["digest"] == grown.outcomes["first"].merged.digest
    found = {each["model_uri"]: each["merges_between"] for each in within["versions"]}
    assert found["models:/zoo/2"] == 0, "it is that version"
    checked = ask(capsys, "check", str(grown.copy))
    assert checked["holds"]
    assert checked["object_id"] == grown.outcomes["first"].merged.object_id
    audited = ask(capsys, "audit", "models:/copy/1", code=4)
    [way] = [each for each in audited["answers"] if each["check"] == "way"]
    assert "mergeflow did not register it" in way["what"]


def test_what_was_it_tested_on(grown: Grown, capsys: pytest.CaptureFixture[str]) -> None:
    for uri in MERGES:
        merge = ask(capsys, "lineage", uri)["nodes"][0]["merge"]
        assert merge["suite"] == "zoo"
        assert merge["suite_digest"] == suite_digest(load_suite(grown.suite))
        [score] = merge["scores"]
        assert score["task"] == "zoo_prose_bpb"


def test_who_let_it_through(grown: Grown, capsys: pytest.CaptureFixture[str]) -> None:
    [chain] = ask(capsys, "history", "zoo")["chains"]
    told = [
        (line["event"], line.get("version"), line.get("how"), line.get("verdict"))
        for line in chain["lines"]
        if line["event"] != "intended"
    ]
    assert ("moved", "2", "run", "promoted") in told
    assert ("kept", "2", "run", "fell_back") in told, "the champion stayed, and why is written"
    assert told[-1][:3] == ("moved", "1", "rollback")
    assert chain["lines"][-1]["why"] == "the canary failed"
    for name in ("second", "average"):
        [chain] = ask(capsys, "history", name)["chains"]
        assert [line for line in chain["lines"] if line.get("verdict") == "promoted"], name


@pytest.mark.parametrize("uri", MERGES)
def test_can_it_be_built_again(grown: Grown, capsys: pytest.CaptureFixture[str], uri: str) -> None:
    """The alias that the second one was made through leads elsewhere since the rollback."""
    assert ask(capsys, "reproduce", uri)["holds"]


def test_was_it_touched(grown: Grown, capsys: pytest.CaptureFixture[str]) -> None:
    before = fingerprint(grown.home.objects)
    reports = ask(capsys, "audit", "--all")
    assert {each["model_uri"] for each in reports} >= set(MERGES)
    failing = {each["model_uri"]: each["answers"] for each in reports if not each["holds"]}
    assert failing == {}
    assert fingerprint(grown.home.objects) == before
