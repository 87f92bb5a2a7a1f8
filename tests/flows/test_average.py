"""The averaging flow on real checkpoints of a run: what it does, and when it does nothing. One home
for the module: the tests follow each other as the runs of a schedule would.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from flows.average import average_checkpoints
from flows.cli import program
from flows.model_zoo import Zoo
from flows.settings.averaging import Averaging
from flows.settings.search import halves_of
from flows.stack.prefect_session import PrefectSession
from flows.steps.endings import Ending, ending_of
from merge_core.homes.home import Home
from tasks.audit.audit import audit_version
from tasks.evaluate import stored_evaluation
from tasks.evaluation.suite import load_suite
from tasks.lineage.trace import lineage
from tasks.records import MergeOutcome
from tasks.registry.client import default_tracking_uri
from tasks.search.sampling import kept_searches
from tasks.signing.keys import make_key_pair
from tests.support.edited_objects import flip, loosen, reseal
from tests.support.recorded_steps import RecordedSteps, recorded_steps

pytestmark = pytest.mark.slow

LENIENT = {"max_regression": 1.0, "min_gain": -1.0, "min_documents": 5}


@dataclass
class Bench:
    """A home, a run of two checkpoints, and a suite of one quick task."""

    home: Home
    zoo: Zoo
    directory: Path
    done: dict[str, MergeOutcome] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        return self.directory / "run"

    def values(self, schedule: str = "uniform", **changes: Any) -> dict[str, Any]:
        return {
            "name": schedule.replace("_", "-"),
            "training": {"run": str(self.run), "marker": "trainer_state.json"},
            "average": {"schedule": schedule},
            "evaluate": {"suite": str(self.directory / "suite"), "experts": False, "parallel": 2},
            "promote": LENIENT,
            "register": {"model": schedule.replace("_", "-")},
        } | changes

    def average(self, schedule: str = "uniform", **changes: Any) -> State[Any]:
        averaging = Averaging.model_validate(self.values(schedule, **changes))
        return average_checkpoints(averaging, return_state=True)


@pytest.fixture(scope="module")
def shared(tiny_zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    directory = tmp_path_factory.mktemp("averages")
    shutil.copytree(tiny_zoo.suite, directory / "suite")
    suite = yaml.safe_load((directory / "suite" / "suite.yaml").read_text())
    suite["tasks"] = [task for task in suite["tasks"] if task["task"] == "zoo_prose_bpb"]
    (directory / "suite" / "suite.yaml").write_text(yaml.safe_dump(suite))
    shutil.copytree(tiny_zoo.run("prose"), directory / "run")
    return Bench(Home(directory / "home"), tiny_zoo, directory)


@pytest.fixture
def bench(
    shared: Bench, prefect: PrefectSession, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    """The shared home, in use."""
    monkeypatch.setenv("MERGEFLOW_HOME", str(shared.home.path))
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: str(shared.home.cache)}):
        yield shared


@pytest.fixture
def steps() -> Iterator[RecordedSteps]:
    """What the flow runs of this test did."""
    with recorded_steps() as recorded:
        yield recorded


@pytest.fixture
def averaged(bench: Bench) -> MergeOutcome:
    """The outcome of the first average, made by whichever test comes first."""
    if "uniform" not in bench.done:
        bench.done["uniform"] = bench.average().result()
    return bench.done["uniform"]


def test_an_average_is_a_linear_merge_of_the_run_with_its_lineage(
    bench: Bench, averaged: MergeOutcome
) -> None:
    assert averaged.state == "Promoted"
    assert averaged.merged.method == "linear"
    newest, oldest = (bench.run / name for name in ("checkpoint-12", "checkpoint-6"))
    assert [each.reference for each in averaged.merged.inputs] == [str(newest), str(oldest)]
    assert averaged.base.path == str(newest), "the latest checkpoint is what it has to beat"
    assert averaged.baseline == "latest checkpoint"
    uri = default_tracking_uri(bench.home)
    ancestry = lineage("models:/uniform@champion", uri)
    assert ancestry.root == averaged.merged.digest
    assert {node.digest for node in ancestry.top.inputs} == {
        each.digest for each in averaged.merged.inputs
    }


def test_an_average_is_signed_where_it_names_a_key(bench: Bench) -> None:
    make_key_pair(bench.home, "nightly")
    outcome = bench.average("wma", register={"model": "wma", "sign": "nightly"}).result()
    version = outcome.registration.candidate.version
    report = audit_version(bench.home, f"models:/wma/{version}", default_tracking_uri(bench.home))
    assert report.of("fails") == []
    assert any(answer.what.startswith("signed by nightly") for answer in report.of("holds"))


def test_without_a_new_checkpoint_a_run_ends_at_once_and_registers_nothing(
    bench: Bench, averaged: MergeOutcome, steps: RecordedSteps
) -> None:
    objects = sorted(bench.home.objects.iterdir())
    state = bench.average()
    assert (state.name, ending_of(state)) == ("Completed", Ending.NOTHING_NEW)
    assert "up to step 12 was promoted" in str(state.message)
    assert [name for name, _ in steps.all] == ["find uniform"]
    assert sorted(bench.home.objects.iterdir()) == objects


def test_what_is_still_being_written_is_nothing_new(bench: Bench, averaged: MergeOutcome) -> None:
    begun = bench.run / "checkpoint-18"
    shutil.copytree(bench.run / "checkpoint-12", begun)
    (begun / "trainer_state.json").unlink()
    try:
        assert ending_of(bench.average()) is Ending.NOTHING_NEW
    finally:
        shutil.rmtree(begun)


def test_a_checkpoint_that_the_training_removes_is_nothing_new(
    bench: Bench, averaged: MergeOutcome
) -> None:
    kept = bench.directory / "aside"
    (bench.run / "checkpoint-6").rename(kept)
    try:
        state = bench.average()
        assert ending_of(state) is Ending.NOTHING_NEW
        assert "1 can be averaged" in str(state.message)
    finally:
        kept.rename(bench.run / "checkpoint-6")


def test_nothing_that_a_person_reads_of_an_average_names_a_base(
    bench: Bench, averaged: MergeOutcome, steps: RecordedSteps, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(bench.home.averages / "uniform")
    file = bench.directory / "averaging.yaml"
    file.write_text(yaml.safe_dump(bench.values()))
    assert program.run(["average", str(file)]) == 0
    said = capsys.readouterr().out
    assert "Promoted: the average replaces the latest checkpoint" in said
    assert "latest checkpoint" in said
    assert not re.search(r"\b(base|merged)\b", said.replace("load      merged", "")), said
    assert {"evaluate latest checkpoint", "evaluate average"} <= steps.cached


def test_a_lost_record_costs_no_work_and_registers_nothing_twice(
    bench: Bench, averaged: MergeOutcome, steps: RecordedSteps
) -> None:
    shutil.rmtree(bench.home.averages / "uniform")
    again: MergeOutcome = bench.average().result()
    assert again == averaged
    looked = {"find uniform", "preflight headers", "register uniform", "retain the last 5"}
    assert steps.ran == looked


def test_an_average_that_was_edited_does_not_count_as_the_one_on_record(
    bench: Bench,
    averaged: MergeOutcome,
    steps: RecordedSteps,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = Path(averaged.merged.path)
    loosen(place)
    sound = flip(place / "model.safetensors")
    reseal(place)

    assert bench.average().result() == averaged

    assert "merge linear" in steps.ran
    assert (place / "model.safetensors").read_bytes() == sound
    assert f"the average {place.name} in the store has changed" in caplog.text


def test_a_checkpoint_of_another_training_ends_the_run_before_the_merge(
    bench: Bench, averaged: MergeOutcome
) -> None:
    stranger = bench.run / "checkpoint-3"
    shutil.copytree(bench.zoo.other_run, stranger)
    (stranger / "trainer_state.json").write_text("{}")
    try:
        state = bench.average()
    finally:
        shutil.rmtree(stranger)
    assert state.is_failed()
    assert "come from different training runs" in str(state.message)


def test_a_checkpoint_of_a_sibling_run_is_left_alone_by_its_log(
    bench: Bench, averaged: MergeOutcome, caplog: pytest.LogCaptureFixture
) -> None:
    sibling = bench.run / "checkpoint-9"
    shutil.copytree(bench.zoo.checkpoints("code")[0], sibling)
    try:
        assert ending_of(bench.average()) is Ending.NOTHING_NEW
    finally:
        shutil.rmtree(sibling)
    assert "left alone: checkpoint-9: its training log" in caplog.text


def test_a_greedy_soup_is_never_worse_than_the_best_single(
    bench: Bench, averaged: MergeOutcome
) -> None:
    outcome: MergeOutcome = bench.average(
        "greedy_soup", promote=LENIENT | {"baseline": "best"}
    ).result()
    [bits] = {task for scores in outcome.scores.values() for task in scores}
    assert outcome.scores["merged"][bits] <= outcome.scores["base"][bits]
    record = json.loads(next((bench.home.averages / "greedy-soup").iterdir()).read_text())
    assert [each["step"] for each in record["seen"]] == [6, 12]
    stored = {path.name for path in bench.home.objects.iterdir()}
    assert outcome.merged.object_id in stored
    assert len(stored) <= 2, "what is only tried is never in the store"
    assert outcome.decision.candidates == 3
    assert "documents of the suite's other half" in outcome.decision.reasons[-1]
    [search] = kept_searches(bench.home)
    [tried] = {trial.result.of_documents for trial in search.trials}
    searching, deciding = halves_of(load_suite(str(bench.directory / "suite")))
    by = stored_evaluation(bench.home.cache, outcome.base, searching, "auto")
    on = stored_evaluation(bench.home.cache, outcome.merged.as_source(), deciding, "auto")
    assert by is not None
    assert on is not None
    [chosen_by], [decided_on] = by.scores, on.scores
    assert tried == len(chosen_by.doc_ids) > 0
    assert not set(chosen_by.doc_ids) & set(decided_on.doc_ids)
    assert stored_evaluation(bench.home.cache, outcome.base, deciding, "auto") is not None


def test_the_command_line_tells_that_there_is_nothing_new(
    bench: Bench, averaged: MergeOutcome, capsys: pytest.CaptureFixture[str]
) -> None:
    file = bench.directory / "averaging.yaml"
    file.write_text(yaml.safe_dump(bench.values()))
    assert program.run(["average", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "NothingNew"
