"""The zoo's recipes, moved aliases, adapters and measured models come out the same, in a process
that knows nothing of the first one (`make thorough`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

from flows.model_zoo import Zoo
from merge_core.homes.home import Home
from merge_core.recipes.loading import load_recipe
from merge_core.recipes.recipe import Recipe
from tasks.evaluation.suite import SHIPPED
from tasks.processes.shipped_files import shipped
from tasks.registry.client import default_tracking_uri, open_registry
from tasks.reproduction.reproduce import reproduce
from tests.support.hub_server import Hub, serve_hub
from tests.support.locked_merges import registered_merge
from tests.support.registrations import empty_registry
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama

pytestmark = pytest.mark.slow

RECIPES = sorted(
    [*shipped("configs").glob("recipes/*.yaml"), *shipped("configs").glob("pipelines/zoo-*.yaml")]
)


@pytest.fixture
def at_zoo(
    home: Home,
    tiny_zoo: Zoo,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    quick_database: None,
) -> Home:
    """A home with an empty registry, where the example models are at hand."""
    monkeypatch.setenv("MERGEFLOW_ZOO", str(tiny_zoo.directory))
    empty_registry(home.mlflow, tmp_path_factory.getbasetemp() / "template.db")
    home.path.chmod(0o700)
    return home


def again(uri: str, *options: str) -> dict[str, Any]:
    """What another process says that comes of making a version again."""
    command = [sys.executable, "-P", "-m", "flows.cli", "reproduce", uri, "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode in (0, 4), done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["holds"] == (done.returncode == 0)
    return told


def read(path: Path) -> Recipe | dict[str, Any]:
    """The recipe in a shipped file."""
    if path.parent.name == "recipes":
        return load_recipe(path)
    values: dict[str, Any] = yaml.safe_load(path.read_text())["recipe"]
    return values


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_recipes_of_the_zoo_come_out_the_same_with_other_threads_and_shards(
    at_zoo: Home, tiny_zoo: Zoo, path: Path
) -> None:
    how = {"threads": 1, "shard_size": "300KB"}
    uri = registered_merge(at_zoo, tiny_zoo.suite, read(path), execution=how)
    told = again(uri, "--threads", "3", "--shard-size", "5GB")
    assert told["holds"], told
    assert "threads: 1 then, 3 now" in told["otherwise"]


def test_an_alias_that_moved_since_gives_the_version_of_then(at_zoo: Home, tiny_zoo: Zoo) -> None:
    first = read(shipped("configs") / "pipelines" / "zoo-good.yaml")
    of_first = registered_merge(at_zoo, tiny_zoo.suite, first, model="first")
    recipe = {
        "merge_method": "linear",
        "models": [
            {"model": "models:/first@champion", "parameters": {"weight": 1.0}},
            {"model": "$MERGEFLOW_ZOO/prose-expert", "parameters": {"weight": 0.5}},
        ],
    }
    uri = registered_merge(at_zoo, tiny_zoo.suite, recipe)
    with open_registry(default_tracking_uri(at_zoo)) as registry:
        registry.client.set_registered_model_alias("first", "champion", "1")
        run = registry.client.get_model_version("model", uri.rpartition("/")[2])
        kept = registry.client.download_artifacts(run.tags["mergeflow.run_id"], "lock.json")
    lock = json.loads(Path(kept).read_text())
    assert [each["places"][0]["version"] for each in lock["sources"]] == [of_first, None]
    told = again(uri)
    assert told["holds"], told
    # The object is gone as well: it is what is missing, and its version is named.
    [source, _] = told["sources"]
    object_of_first = Path(source["paths"][0])
    object_of_first.rename(at_zoo.path / "aside")
    told = again(uri)
    [missing] = told["missing"]
    assert f"mergeflow reproduce {of_first} --out DIR" in missing["mend"]
    made = str(at_zoo.path.parent / "first-again")
    assert again(of_first, "--out", made)["holds"]
    assert again(uri, "--look-in", made)["holds"]


def test_checkpoints_of_the_hub_are_found_by_commit_in_another_cache(
    home: Home,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    quick_database: None,
) -> None:
    registry = empty_registry(home.mlflow, tmp_path_factory.getbasetemp() / "template.db")
    home.path.chmod(0o700)
    shelf = {f"org/{name}": tmp_path / "hub" / name for name in ("base", "tuned")}
    write_llama(shelf["org/base"], base_weights())
    write_llama(shelf["org/tuned"], fine_tuned(base_weights(), 1))
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    # A copy of the base was seen first: its record has no commit, and the lock has.
    copied = {"merge_method": "linear", "models": [{"model": str(each)} for each in shelf.values()]}
    with serve_hub(Hub(shelf)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        registered_merge(home, SHIPPED / "starter", copied)
        recipe = {"merge_method": "linear", "models": [{"model": each} for each in shelf]}
        uri = registered_merge(home, SHIPPED / "starter", recipe)
    shutil.rmtree(tmp_path / "hub")
    moved = cache.rename(tmp_path / "another")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(moved))
    report = reproduce(home, uri, registry)
    assert report.holds, report
    commits = [Path(source.paths[0]).relative_to(moved).parts[-1] for source in report.sources]
    assert commits == ["a" * 40] * 2
    shutil.rmtree(moved)
    lost = reproduce(home, uri, registry).missing
    assert lost[0].mend == f"download it: hf download org/base --revision {'a' * 40}"


def test_what_was_measured_on_data_is_found_or_measured_again(
    at_zoo: Home, tiny_zoo: Zoo, tmp_path: Path
) -> None:
    lines = [json.dumps({"text": f"def add_{number}(a, b): return a + b"}) for number in range(8)]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(lines))
    recipe = {
        "merge_method": "fisher",
        "models": [{"model": f"$MERGEFLOW_ZOO/{name}"} for name in ("code-expert", "prose-expert")],
        "calibration": {"data": "data.jsonl", "samples": 4},
    }
    how = {"threads": 1, "device": "cpu"}
    uri = registered_merge(at_zoo, tiny_zoo.suite, recipe, beside=tmp_path, execution=how)
    assert again(uri)["holds"]
    away = data.rename(tmp_path / "away.jsonl")
    assert again(uri)["holds"]  # what was measured is still in the store
    at_zoo.statistics.rename(tmp_path / "statistics")
    [missing] = again(uri)["missing"]
    assert missing["reference"] == "data.jsonl"
    assert missing["mend"] == "put the calibration data back where it was"
    away.rename(data)
    told = again(uri, "--threads", "1")
    assert told["holds"], told
    assert len(list(at_zoo.statistics.iterdir())) == 2
