"""A pipeline whose models are a base with adapters: merged as they stream, scored written out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from flows.merge import merge_pipeline
from flows.model_zoo import Zoo
from flows.settings.pipeline import load_pipeline
from flows.stack.prefect_session import PrefectSession
from merge_core.checkpoints.sources import describe_adapter, describe_source, with_adapter
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.operations.adapters.extract import ExtractOptions, extract_adapter
from tasks.audit.audit import audit_version
from tasks.records import MergeOutcome
from tasks.registry.client import open_registry
from tasks.registry.lock import LOCK, Lock
from tasks.reproduction.report import Reproduction
from tasks.reproduction.reproduce import reproduce

pytestmark = pytest.mark.slow

LENIENT = {"max_regression": 0.5, "min_gain": -0.5, "min_documents": 10}


@pytest.fixture(scope="module")
def place(tiny_zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a quick suite and the zoo's experts as adapters."""
    directory = tmp_path_factory.mktemp("adapters")
    shutil.copytree(tiny_zoo.suite, directory / "suite")
    suite = yaml.safe_load((directory / "suite" / "suite.yaml").read_text())
    suite["tasks"] = [task for task in suite["tasks"] if task["task"].endswith("bpb")][:1]
    (directory / "suite" / "suite.yaml").write_text(yaml.safe_dump(suite))
    memo = DigestMemo(None)
    base = describe_source("base", Path(tiny_zoo.base), memo)
    for name in ("code-expert", "prose-expert"):
        expert = describe_source(name, tiny_zoo.directory / name, memo)
        extract_adapter(base, expert, directory / name, ExtractOptions(rank=8))
    return directory


@pytest.fixture
def home(place: Path, prefect: PrefectSession, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """One home for the module."""
    monkeypatch.setenv("MERGEFLOW_HOME", str(place / "home"))
    home = Home(place / "home")
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: str(home.cache)}):
        yield home


def outcome(place: Path, recipe: dict[str, Any]) -> MergeOutcome:
    """The outcome of a pipeline with this recipe."""
    values = {
        "name": "adapters",
        "recipe": recipe,
        "evaluate": {"suite": str(place / "suite")},
        "promote": LENIENT,
        "register": {"model": "adapters"},
    }
    path = place / "pipeline.yaml"
    path.write_text(yaml.safe_dump(values))
    loaded = load_pipeline(path)
    state = merge_pipeline(loaded.pipeline, str(loaded.beside), return_state=True)
    result: MergeOutcome = state.result()
    return result


def reproduced(result: MergeOutcome, home: Home) -> Reproduction:
    """What comes of making the registered merge of a run again."""
    assert result.registration is not None
    uri, address = result.registration.tracking_uri, result.registration.candidate
    version = f"models:/{address.name}/{address.version}"
    audited = [each for each in audit_version(home, version, uri).answers if each.check == "lock"]
    assert [each.outcome for each in audited] == ["holds"], audited
    with open_registry(uri) as registry:
        kept = registry.client.download_artifacts(result.registration.run_id, LOCK)
    lock = Lock.model_validate_json(Path(kept).read_bytes())
    assert lock.started <= lock.ended
    assert {len(each.places) for each in lock.sources} <= {1, 2}
    return reproduce(home, version, uri)


def models(tiny_zoo: Zoo) -> list[dict[str, Any]]:
    return [
        {"model": f"{tiny_zoo.base}+{name}", "parameters": {"weight": 0.5}}
        for name in ("code-expert", "prose-expert")
    ]


def test_adapters_are_merged_scored_and_registered(tiny_zoo: Zoo, place: Path, home: Home) -> None:
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(tiny_zoo.base),
        "models": models(tiny_zoo),
    }
    result = outcome(place, recipe)
    assert result.state == "Promoted"
    assert list(result.scores) == [
        "base",
        f"{Path(tiny_zoo.base).name}+code-expert",
        f"{Path(tiny_zoo.base).name}+prose-expert",
        "merged",
    ]
    assert len({tuple(scores.values()) for scores in result.scores.values()}) == 4
    base = describe_source("b", Path(tiny_zoo.base), DigestMemo(None))
    adapter = describe_adapter("a", place / "code-expert", DigestMemo(None))
    digests = {entry.role: entry.digest for entry in result.merged.inputs[:2]}
    assert digests == {"base": base.digest, "model": with_adapter("b+a", base, adapter).digest}
    again = reproduced(result, home)
    assert again.holds, again
    assert [len(source.paths) for source in again.sources] == [1, 2, 2]


def test_a_baseline_with_an_adapter_is_a_checkpoint_that_can_be_served(
    tiny_zoo: Zoo, place: Path, home: Home
) -> None:
    result = outcome(place, {"merge_method": "linear", "models": models(tiny_zoo)})
    assert Path(result.base.path).parent == home.objects
    assert result.base.adapter is None
    assert (
        result.base.digest == describe_source("b", Path(result.base.path), DigestMemo(None)).digest
    )
    assert reproduced(result, home).holds
    written_out, aside = Path(result.base.path), place / "aside"
    written_out.rename(aside)
    try:
        again = reproduced(result, home)
    finally:
        aside.rename(written_out)
    assert again.holds, again
    assert [len(source.paths) for source in again.sources] == [2, 2]
