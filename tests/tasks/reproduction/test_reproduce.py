"""Registered merges are made again from their records, and every byte is compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli import program
from merge_core.homes.home import Home
from merge_core.runtime.compute import Compute
from tasks.evaluation.suite import SHIPPED
from tasks.registry.client import open_registry
from tasks.reproduction.reproduce import reproduce
from tests.support.audited import Audited
from tests.support.edited_objects import flip
from tests.support.locked_merges import registered_merge
from tests.support.merge_store import clear_away
from tests.support.registrations import empty_registry
from tests.support.tampering import Tamperer, relocked
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama

URI = "models:/model/2"
LINEAR = {
    "merge_method": "linear",
    "models": [
        {"model": "base", "parameters": {"weight": 1.0}},
        {"model": "tuned", "parameters": {"weight": 0.5}},
    ],
}


@pytest.fixture
def copy(audited: Audited, tmp_path: Path) -> Iterator[Audited]:
    """A copy of the home, to tamper with."""
    copied = audited.copied(tmp_path)
    with open_registry(copied.registry):
        pass  # the copy's database leads to the copy from here on
    yield copied
    clear_away(Home(tmp_path / "home"))


def test_a_merge_comes_out_the_same_and_nothing_is_left_behind(audited: Audited) -> None:
    before = {*audited.home.path.rglob("*"), audited.home.scratch}
    report = reproduce(audited.home, URI, audited.registry, compute=Compute("cpu", 3))
    assert report.holds
    assert report.rebuilt == audited.first_object
    assert [source.moved for source in report.sources] == [False, False]
    assert "threads: 1 then, 3 now" in report.otherwise
    assert report.assumed == ()
    assert set(audited.home.path.rglob("*")) <= before


@pytest.mark.slow
def test_sources_are_found_by_digest_and_what_is_nowhere_is_named(
    home: Home,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    quick_database: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty_registry(home.mlflow, tmp_path_factory.getbasetemp() / "template.db")
    home.path.chmod(0o700)
    tuned = tmp_path / "in" / "tuned"
    write_llama(tmp_path / "in" / "base", base_weights())
    write_llama(tuned, fine_tuned(base_weights(), 1))
    uri = registered_merge(
        home, SHIPPED / "starter", LINEAR, beside=tmp_path / "in", execution={"shard_size": "2KB"}
    )

    def again(*options: str) -> tuple[int, str]:
        code = program.run(["reproduce", uri, *options])
        return code, capsys.readouterr().out

    # Another name beside its old one; another shard size and other threads asked for.
    moved = tuned.rename(tuned.with_name("renamed"))
    code, said = again("--threads", "2", "--shard-size", "5GB", "--out", str(tmp_path / "kept"))
    assert code == 0, said
    assert f"{uri} comes out the same: " in said
    assert f"found in {moved}" in said
    assert "the lock's shard size, 2,000 bytes, and not the one asked for" in said
    assert len(list((tmp_path / "kept").glob("*.safetensors"))) > 1

    # Another checkpoint under the old name, and the right one elsewhere.
    shutil.copytree(moved, tuned)
    flip(tuned / "model.safetensors")
    away = moved.rename(tmp_path / "away")
    code, said = again()
    assert code == 4
    assert "cannot be made again: 1 source missing" in said
    assert f"{tuned}: model.safetensors has changed" in said
    assert "what to do: put it back where it was, or name a directory above it" in said
    assert program.run(["reproduce", uri, "--look-in", str(moved)]) == 2
    assert "no such directory to look in" in capsys.readouterr().err
    assert again("--look-in", str(tmp_path))[0] == 0

    shutil.rmtree(away)
    shutil.rmtree(tuned)
    code, said = again("--json")
    assert code == 4
    told = json.loads(said)
    assert [each["reference"] for each in told["missing"]] == ["tuned"]
    assert told["rebuilt"] is None


@pytest.mark.slow
def test_without_a_lock_it_says_what_it_assumes(
    copy: Audited, capsys: pytest.CaptureFixture[str]
) -> None:
    at = Tamperer(copy)
    at.artifact("lock.json").unlink()
    at.api.delete_tag(at.run_id, "mergeflow.lock")
    report = reproduce(copy.home, URI, copy.registry)
    assert report.holds
    assert any("it has no lock" in line for line in report.assumed)
    assert any("5,000,000,000 bytes, the default" in line for line in report.assumed)
    other = reproduce(copy.home, URI, copy.registry, shard_bytes=2_000)
    assert not other.same
    assert "model.safetensors" in {each.name for each in other.differences}
    assert any(line.startswith("plan_digest: ") for line in other.otherwise)
    command = ["reproduce", URI, "--tracking-uri", copy.registry, "--shard-size", "1GB"]
    assert program.run(command) == 4
    assert "every file is the same but its manifest" in capsys.readouterr().out


@pytest.mark.slow
def test_an_edited_lock_is_told_and_not_used(
    copy: Audited, capsys: pytest.CaptureFixture[str]
) -> None:
    at = Tamperer(copy)
    at.edit(at.artifact("lock.json"), lambda value: value.update(shard_bytes=50_000))
    assert program.run(["reproduce", URI, "--tracking-uri", copy.registry, "--json"]) == 4
    told = json.loads(capsys.readouterr().out)
    assert (told["same"], told["holds"]) == (True, False)
    assert "lock.json was edited" in told["problems"][0]
    relocked(at, lambda value: value.update(shard_bytes=60_000))
    report = reproduce(copy.home, URI, copy.registry)
    assert (report.same, report.holds) == (True, False)
    assert "another plan" in report.problems[0]


@pytest.mark.slow
def test_a_record_that_is_gone_is_made_up_for_by_the_one_beside_the_checkpoint(
    copy: Audited, capsys: pytest.CaptureFixture[str]
) -> None:
    at = Tamperer(copy)
    at.artifact("manifest.json").unlink()
    at.edit(at.artifact("environment.json"), lambda value: value.update(python="3.10.1"))
    recipe = at.artifact("recipe.yaml")
    recipe.write_text(recipe.read_text().replace("0.5", "0.6"))
    report = reproduce(copy.home, URI, copy.registry)
    assert (report.same, report.holds) == (True, False)
    assert report.problems == ("the run's recipe.yaml is not the one of this version",)
    assert report.assumed == ("the run's manifest.json is gone: another record is taken",)
    assert any(line.startswith("python: 3.10.1 then, ") for line in report.otherwise)
    before = copy.object
    aside = before.rename(copy.home.path / "aside")
    assert program.run(["reproduce", URI, "--tracking-uri", copy.registry]) == 2
    said = capsys.readouterr().err
    aside.rename(before)
    assert reproduce(copy.home, URI, copy.registry).same
    assert "nothing is left that says how this version was made" in said
    assert "the manifest beside the checkpoint is gone" in said


def test_what_no_merge_made_is_bad_input(copy: Audited, capsys: pytest.CaptureFixture[str]) -> None:
    with open_registry(copy.registry, writing=True) as registry:
        registry.client.create_registered_model("theirs")
        registry.client.create_model_version("theirs", str(copy.object))
    for uri, said in (
        ("models:/theirs/1", "was not registered by mergeflow"),
        ("models:/model/1", "this version is a base"),
        ("models:/model/99", "has no version 99"),
        ("models:/other@champion", "no model 'other'"),
        ("model", "not the address of a registered version"),
    ):
        assert program.run(["reproduce", uri, "--tracking-uri", copy.registry]) == 2
        assert said in capsys.readouterr().err
    # A version with a verdict, as the first message says.
    assert program.run(["reproduce", "models:/model/3", "--tracking-uri", copy.registry]) == 0
