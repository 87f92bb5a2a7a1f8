"""The merge flow on real models: its steps, its cache, its endings. One home serves all tests:
they follow each other as a user's runs would, and each leaves the home complete."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from flows.cli import program
from flows.merge import merge_pipeline
from flows.model_zoo import Zoo
from flows.settings.pipeline import Register, load_pipeline
from flows.stack.prefect_session import PrefectSession
from flows.steps.early_checks import check_registry
from flows.steps.endings import Ending, ending_of
from merge_core.errors import CompatibilityError
from merge_core.files.digests import DigestMemo, fingerprint
from merge_core.homes.home import Home
from tasks.records import MergeOutcome
from tasks.registry.client import default_tracking_uri, open_registry
from tests.support.edited_objects import flip, loosen, pointer, reseal, sha256
from tests.support.recorded_steps import RecordedSteps, recorded_steps

ALL_CACHED = {"preflight headers", "register zoo"}
"""The steps that are done on every run: they look at the world outside."""
LENIENT = {"max_regression": 0.1, "min_gain": -0.1, "min_documents": 10}
"""A tiny model's multiple choice is noise; what is tested here is the flow, not the model."""
TO_BASE = LENIENT | {"fall_back_to": "base"}


@dataclass
class Bench:
    """A home with pipelines that share it."""

    home: Home
    zoo: Zoo
    directory: Path
    first: MergeOutcome | None = None

    def pipeline(self, weight: float = 0.5, expert: str = "code-expert", **changes: Any) -> Path:
        """A pipeline file: base plus two experts at `weight`, the first being `expert`."""
        values: dict[str, Any] = {
            "name": "zoo",
            "recipe": {
                "merge_method": "task_arithmetic",
                "base_model": str(self.zoo.base),
                "models": [
                    {"model": str(self.zoo.directory / name), "parameters": {"weight": weight}}
                    for name in (expert, "prose-expert")
                ],
            },
            "evaluate": {"suite": str(self.directory / "suite"), "parallel": 2},
            "promote": LENIENT,
            "register": {"model": "zoo"},
        } | changes
        path = self.directory / "pipeline.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    def run(self, path: Path) -> State[MergeOutcome]:
        """Run a pipeline file as a flow; its final state."""
        loaded = load_pipeline(path)
        return merge_pipeline(loaded.pipeline, str(loaded.beside), return_state=True)

    def outcome(self, path: Path) -> MergeOutcome:
        """Run a pipeline file; its outcome."""
        outcome: MergeOutcome = self.run(path).result()
        return outcome


@pytest.fixture
def steps() -> Iterator[RecordedSteps]:
    """What the flow runs of this test did."""
    with recorded_steps() as recorded:
        yield recorded


@pytest.fixture(scope="module")
def shared(tiny_zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A home and a suite of two quick tasks."""
    directory = tmp_path_factory.mktemp("bench")
    shutil.copytree(tiny_zoo.suite, directory / "suite")
    suite = yaml.safe_load((directory / "suite" / "suite.yaml").read_text())
    suite["tasks"] = [task for task in suite["tasks"] if task["task"].endswith("bpb")]
    (directory / "suite" / "suite.yaml").write_text(yaml.safe_dump(suite))
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
def promoted(bench: Bench) -> MergeOutcome:
    """The outcome of the good pipeline's first run, done by whichever test comes first."""
    if bench.first is None:
        bench.first = bench.outcome(bench.pipeline())
    return bench.first


def champion_digest(home: Home) -> str:
    with open_registry(default_tracking_uri(home)) as registry:
        version = registry.client.get_model_version_by_alias("zoo", "champion")
        return str(version.tags["mergeflow.digest"])


def markdown_of(state: State[Any]) -> dict[str, str]:
    """Text of each report on a run's page, by its key."""
    flow_run = state.state_details.flow_run_id
    assert flow_run is not None
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run]))
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=wanted)
    return {str(artifact.key): str(artifact.data) for artifact in found}


def test_a_good_merge_is_promoted_registered_and_served(
    bench: Bench, promoted: MergeOutcome
) -> None:
    assert promoted.state == "Promoted"
    assert promoted.serve == promoted.merged.path
    assert Path(promoted.serve, "model.safetensors").is_file()
    assert champion_digest(bench.home) == promoted.merged.digest
    assert list(promoted.scores) == ["base", "code-expert", "prose-expert", "merged"]


def test_all_that_a_run_keeps_is_its_users_alone(bench: Bench, promoted: MergeOutcome) -> None:
    """The results of steps, MLflow's database and artifacts, the store, plots, the memo."""
    kept = [bench.home.path, *bench.home.path.rglob("*")]
    assert {"cache", "mlflow", "store"} <= {path.name for path in kept}
    assert [path for path in kept if path.stat().st_mode & 0o077] == []


def test_the_run_ends_in_a_named_state_with_reports_on_its_page(
    bench: Bench, promoted: MergeOutcome
) -> None:
    path = bench.pipeline()
    state = bench.run(path)
    assert (state.name, ending_of(state)) == ("Completed", Ending.PROMOTED)
    assert str(state.message).startswith(f"Promoted: {promoted.decision.reasons[0]}")
    assert state.is_completed()
    reports = markdown_of(state)
    assert "fine-tune of the base" in reports["zoo-compatibility"]
    assert "data:image/png;base64," in reports["zoo-task-vectors"]
    assert "code-expert" in reports["zoo-decision"]
    assert promoted.decision.reasons[0] in reports["zoo-decision"]
    assert "```mermaid" in reports["zoo-lineage"]
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(state.state_details.flow_run_id)
    assert run.name == load_pipeline(path).pipeline.run_name


def test_a_second_run_finds_everything_in_its_caches(
    bench: Bench, promoted: MergeOutcome, steps: RecordedSteps
) -> None:
    again = bench.outcome(bench.pipeline())
    assert steps.ran == ALL_CACHED
    assert again == promoted


@pytest.mark.slow
def test_one_changed_weight_redoes_the_merge_and_its_evaluation_only(
    bench: Bench, promoted: MergeOutcome, steps: RecordedSteps
) -> None:
    bench.outcome(bench.pipeline(weight=0.4))
    redone = {"merge task_arithmetic", "load merged", "evaluate merged", "decide zoo"}
    assert steps.ran - ALL_CACHED == redone
    assert {"verify 2 models", "profile 2 task vectors", "evaluate base"} <= steps.cached


def test_a_collapsed_merge_falls_back_and_takes_the_alias_from_nobody_who_passed(
    bench: Bench, promoted: MergeOutcome
) -> None:
    bench.outcome(bench.pipeline())
    state = bench.run(bench.pipeline(weight=12.0))
    outcome: MergeOutcome = state.result()
    assert (state.name, outcome.state) == ("Completed", "FellBack")
    assert ending_of(state) is Ending.FELL_BACK
    assert outcome.serve == str(bench.zoo.base)
    assert champion_digest(bench.home) == promoted.merged.digest
    reports = markdown_of(state)
    assert "a scale above 1" in reports["zoo-compatibility"]
    assert f"This run answers: serve `{bench.zoo.base}`" in reports["zoo-serving"]
    assert "keeps the alias: it passed against this base and this suite" in reports["zoo-serving"]


@pytest.mark.slow
def test_a_pipeline_may_ask_that_the_base_gets_the_alias(
    bench: Bench, promoted: MergeOutcome
) -> None:
    outcome = bench.outcome(bench.pipeline(weight=12.0, promote=TO_BASE))
    assert outcome.state == "FellBack"
    assert champion_digest(bench.home) == outcome.base.digest
    bench.outcome(bench.pipeline())
    assert champion_digest(bench.home) == promoted.merged.digest


def test_deleted_weights_are_merged_again_and_nothing_else(
    bench: Bench, promoted: MergeOutcome, steps: RecordedSteps
) -> None:
    remove_readonly(Path(promoted.merged.path))
    again = bench.outcome(bench.pipeline())
    assert steps.ran - ALL_CACHED == {"merge task_arithmetic"}
    assert again == promoted
    assert Path(promoted.merged.path, "model.safetensors").is_file()


def test_a_flipped_bit_in_the_merged_weights_is_found_and_mended(
    bench: Bench, promoted: MergeOutcome, steps: RecordedSteps
) -> None:
    weights = Path(promoted.merged.path, "model.safetensors")
    loosen(weights.parent)
    sound = flip(weights)
    bench.outcome(bench.pipeline())
    assert steps.ran - ALL_CACHED == {"merge task_arithmetic"}
    assert weights.read_bytes() == sound


@pytest.mark.slow
def test_an_object_that_was_edited_with_its_sums_name_and_pointer_is_merged_again(
    bench: Bench,
    promoted: MergeOutcome,
    steps: RecordedSteps,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = Path(promoted.merged.path)
    loosen(place)
    sound = flip(place / "model.safetensors")
    forged = reseal(place)
    place.rename(place.with_name(forged))
    pointer(bench.home, promoted.merged.plan_digest).write_text(f"{forged}\n")

    again = bench.outcome(bench.pipeline())

    assert again == promoted
    assert steps.ran - ALL_CACHED == {"merge task_arithmetic"}
    assert (place / "model.safetensors").read_bytes() == sound
    assert f"the merged checkpoint {place.name} in the store is not what this recipe gives" in (
        caplog.text
    )
    assert forged in caplog.text
    remove_readonly(place.with_name(forged))


@pytest.mark.slow
def test_a_swapped_pointer_is_noticed_although_the_step_is_in_the_cache(
    bench: Bench, promoted: MergeOutcome, steps: RecordedSteps, caplog: pytest.LogCaptureFixture
) -> None:
    merged = promoted.merged
    pointer(bench.home, merged.plan_digest).write_text(f"{'f' * 64}\n")

    assert bench.outcome(bench.pipeline()) == promoted

    assert steps.ran - ALL_CACHED == {"merge task_arithmetic"}
    assert pointer(bench.home, merged.plan_digest).read_text() == f"{merged.object_id}\n"
    assert f"the pointer of its plan leads to {'f' * 64}" in caplog.text


@pytest.mark.slow
def test_weights_that_a_planted_digest_vouches_for_are_not_promoted_and_then_merged_again(
    bench: Bench, promoted: MergeOutcome
) -> None:
    # Falls back to the base, so that there is something to promote.
    bench.outcome(bench.pipeline(weight=12.0, promote=TO_BASE))
    assert champion_digest(bench.home) == promoted.base.digest
    weights = Path(promoted.merged.path, "model.safetensors")
    loosen(weights.parent)
    known, sound = sha256(weights), flip(weights)
    DigestMemo(bench.home.digest_memo).remember(weights, known, fingerprint(weights))

    state = bench.run(bench.pipeline())

    assert state.is_failed()
    assert "model.safetensors has changed" in str(state.message)
    assert "run the same command again" in str(state.message)
    assert champion_digest(bench.home) == promoted.base.digest
    assert bench.outcome(bench.pipeline()).state == "Promoted"
    assert champion_digest(bench.home) == promoted.merged.digest
    assert weights.read_bytes() == sound


def test_a_stranger_among_the_models_ends_the_run_before_the_merge(
    bench: Bench, promoted: MergeOutcome, steps: RecordedSteps
) -> None:
    objects = sorted(bench.home.objects.iterdir())
    state = bench.run(bench.pipeline(expert="other-run"))
    assert state.is_failed()
    assert "not a fine-tune" in str(state.message)
    assert "what to do:" in str(state.message)
    with pytest.raises(CompatibilityError):
        state.result()
    assert "merge task_arithmetic" not in steps.ran | steps.cached
    assert sorted(bench.home.objects.iterdir()) == objects
    assert champion_digest(bench.home) == promoted.merged.digest
    assert "cannot be merged" in markdown_of(state)["zoo-compatibility"]


def test_a_rule_for_a_task_that_is_not_there_is_told_before_any_work(
    bench: Bench, steps: RecordedSteps
) -> None:
    rule = LENIENT | {"per_task": {"zoo_code_bbp": 1}}
    state = bench.run(bench.pipeline(promote=rule))
    assert state.is_failed()
    assert "did you mean 'zoo_code_bpb'?" in str(state.message)
    assert not steps.ran


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("htp://tracking:5000", "not an address MLflow can register models at"),
        ("sqlite:///mlflow.db", "depends on where the command is run"),
        ("sqlite:////dev/null/below/mlflow.db", "/dev/null is no directory"),
        ("http:/tracking:5000", "not an address MLflow can register models at"),
        ("http://[::1:5000", "not an address MLflow can register models at"),
        ("http://tracking:99999", "not an address MLflow can register models at"),
    ],
)
def test_a_mistyped_mlflow_address_is_told_before_any_work(
    address: str, message: str, bench: Bench, steps: RecordedSteps
) -> None:
    register = {"model": "zoo", "tracking_uri": address}
    state = bench.run(bench.pipeline(register=register))
    assert state.is_failed()
    assert message in str(state.message)
    assert not steps.ran


def test_a_silent_mlflow_server_is_told_at_once_and_ends_nothing_yet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    register_as = Register(model="zoo", tracking_uri=f"http://127.0.0.1:{port}")
    with caplog.at_level("WARNING", logger="mergeflow"):
        check_registry(register_as, Home(tmp_path))
    assert f"http://127.0.0.1:{port}: the MLflow server does not answer" in caplog.text
    assert "needs an answer there at the latest when it registers" in caplog.text

    caplog.clear()
    check_registry(register_as.model_copy(update={"model": None}), Home(tmp_path))
    assert not caplog.text


@pytest.mark.slow
def test_the_command_line_ends_with_the_outcome_as_exit_code(
    bench: Bench, promoted: MergeOutcome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run(["run", str(bench.pipeline()), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "Promoted"
    assert program.run(["run", str(bench.pipeline(weight=12.0))]) == 3
    assert "Fell back: the base stays" in capsys.readouterr().out
    assert program.run(["run", str(bench.pipeline(expert="other-run"))]) == 2
    captured = capsys.readouterr()
    assert "not a fine-tune" in captured.err
    assert "Traceback" not in captured.err + captured.out
    assert program.run(["run", str(bench.pipeline())]) == 0


def test_the_champion_is_a_checkpoint_for_other_commands(
    bench: Bench, promoted: MergeOutcome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run(["lineage", "models:/zoo@champion"]) == 0
    assert promoted.merged.digest in capsys.readouterr().out
    assert program.run(["audit", "models:/zoo@champion"]) == 0, capsys.readouterr().out
    assert "the rule of the run gives the same decision again" in capsys.readouterr().out
    recipe, models = bench.directory / "stacked.yaml", ["models:/zoo@champion", bench.zoo.base]
    weighted = [{"model": str(model), "parameters": {"weight": 1}} for model in models]
    recipe.write_text(yaml.safe_dump({"merge_method": "linear", "models": weighted}))
    out = bench.directory / "stacked"
    assert program.run(["merge", str(recipe), str(out), "--json"]) == 0
    inputs = json.loads(capsys.readouterr().out)["inputs"]
    assert inputs[0]["digest"] == promoted.merged.digest


def remove_readonly(directory: Path) -> None:
    """Remove a published checkpoint, which is read-only."""
    loosen(directory)
    shutil.rmtree(directory)
