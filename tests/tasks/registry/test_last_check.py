"""What an alias will lead to is read once more before it moves: bytes, description, version."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from merge_core.errors import CheckpointError, MergeflowError, StepError
from merge_core.files.digests import DigestMemo, fingerprint
from merge_core.progress import ProgressEvent
from merge_core.records import CheckpointManifest
from tasks.registry import loader as registry_loader
from tasks.registry.client import open_registry
from tasks.registry.last_check import check_bytes_served
from tasks.registry.register import register_merge
from tests.support.edited_descriptions import ATTACKS, lead_elsewhere, load_from_elsewhere
from tests.support.edited_objects import flip, loosen, sha256
from tests.support.registrations import variant, zoo_merge
from tests.support.registry_contents import artifacts_of, champion_holder

Check = Callable[..., None]


@pytest.fixture
def place(tiny_zoo: Any, tmp_path: Path) -> Path:
    """A merged checkpoint of this test's own."""
    directory = variant(tiny_zoo.prose_expert, tmp_path / "object", "attacked")
    loosen(directory)
    return directory


@pytest.fixture
def arguments(tiny_zoo: Any, place: Path, registry: str) -> dict[str, Any]:
    """What registers it, and promotes it."""
    return zoo_merge(tiny_zoo, place, registry)


@pytest.fixture
def described(tiny_zoo: Any, arguments: dict[str, Any], place: Path, registry: str) -> Path:
    """MLflow's description of it, from an earlier run that fell back."""
    earlier = register_merge(**zoo_merge(tiny_zoo, place, registry, promote=False))
    assert champion_holder(registry) == earlier.base.version
    return artifacts_of(registry) / "models" / str(earlier.candidate.logged_model_id) / "artifacts"


def assert_refused_until_mended(
    arguments: dict[str, Any], match: str, mend: Callable[[], object]
) -> None:
    """The alias stays where it was; when the cause is mended, the same call completes."""
    registry = arguments["tracking_uri"]
    before = champion_holder(registry)
    with pytest.raises(MergeflowError, match=match) as refused:
        register_merge(**arguments)
    assert refused.value.mend
    assert champion_holder(registry) == before
    mend()
    done = register_merge(**arguments)
    assert champion_holder(registry) == done.champion.version != before


def test_weights_that_changed_since_they_were_evaluated_are_not_promoted(
    arguments: dict[str, Any], place: Path
) -> None:
    sound = flip(place / "model.safetensors")
    assert_refused_until_mended(
        arguments,
        r"model\.safetensors has changed",
        lambda: (place / "model.safetensors").write_bytes(sound),
    )


def test_a_memo_that_vouches_for_changed_weights_is_not_asked_and_told_the_truth(
    arguments: dict[str, Any], place: Path, tmp_path: Path
) -> None:
    weights, memo = place / "model.safetensors", tmp_path / "digests.sqlite"
    known, sound = sha256(weights), flip(weights)
    DigestMemo(memo).remember(weights, known, fingerprint(weights))
    assert DigestMemo(memo).sha256(weights) == known
    assert_refused_until_mended(
        arguments | {"digest_memo": memo},
        r"model\.safetensors has changed",
        lambda: weights.write_bytes(sound),
    )
    flip(weights)
    assert DigestMemo(memo).sha256(weights) == sha256(weights)


def test_a_base_that_changed_is_not_fallen_back_to(
    tiny_zoo: Any, place: Path, registry: str, tmp_path: Path
) -> None:
    from tests.support.registrations import registration

    base = variant(tiny_zoo.base, tmp_path / "base", "mine")
    loosen(base)
    arguments = registration(registry, base, [tiny_zoo.code_expert], place, promote=False)
    sound = flip(base / "model.safetensors")
    assert_refused_until_mended(
        arguments,
        r"model\.safetensors has changed",
        lambda: (base / "model.safetensors").write_bytes(sound),
    )


def test_a_file_more_that_would_be_loaded_is_not_promoted(
    arguments: dict[str, Any], place: Path
) -> None:
    (place / "adapter_config.json").write_text("{}")
    assert_refused_until_mended(arguments, "is not listed", (place / "adapter_config.json").unlink)


@pytest.fixture
def check(described: Path, arguments: dict[str, Any], registry: str) -> Check:
    """The check of the version that is not promoted yet, as it is done before the alias moves."""

    def check(manifest: CheckpointManifest | None = None) -> None:
        checkpoint = (manifest or arguments["manifest"]).as_source()
        with open_registry(registry, writing=True) as opened:
            version = opened.client.get_model_version("zoo", "2")
            model = described.parent.name
            check_bytes_served(opened, version, model, checkpoint, DigestMemo(None))()

    return check


def test_no_file_that_would_be_loaded_may_come_after_the_registration(
    check: Check, place: Path
) -> None:
    (place / "README.md").write_text("read by people")
    check()
    for name in (
        *("adapter_config.json", "added_tokens.json", "model-2.safetensors", "tokenizer.model"),
        *("extra.py", "custom_generate/generate.py", "vocab-2.json", "adapter_model.bin"),
    ):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("{}")
        with pytest.raises(CheckpointError, match=re.escape(name)):
            check()
        (place / name).unlink()
    check()


def test_a_description_that_was_edited_is_written_anew_before_the_alias_moves(
    described: Path, check: Check, place: Path
) -> None:
    sound = {path: sha256(path) for path in described.rglob("*.*") if path.is_file()}
    evil = Path(shutil.copytree(place, place.parent / "evil"))
    flip(evil / "model.safetensors")
    for attack in ATTACKS:
        attack(described, evil)
        check()
        assert {path: sha256(path) for path in sound} == sound, attack
        text = (described / "MLmodel").read_text()
        assert str(evil) not in text, attack
        assert "verify: sizes" in text
    registry_loader._load_pyfunc(str(described / "checkpoint.json"), {"verify": "digests"})


def test_what_was_added_to_a_description_is_not_loaded_with_the_champion(
    described: Path, check: Check
) -> None:
    earlier = b"# the loader of an earlier version, whose name says what it holds\n"
    loader = f"mergeflow_loader_{hashlib.sha256(earlier).hexdigest()[:8]}.py"
    (described / "code" / loader).write_bytes(earlier)
    (described / "registered_model_meta").write_text("MLflow leaves it")
    check()
    for name in ("code/torch.py", "components/tokenizer/added_tokens.json", f"code/_{loader}"):
        (described / name).write_text("{}")
        with pytest.raises(StepError, match=f"MLflow holds {re.escape(name)}"):
            check()
        (described / name).unlink()
    (described / "code" / loader).write_bytes(b"evil")
    with pytest.raises(StepError, match="MLflow holds code/mergeflow_loader_"):
        check()


def test_the_alias_leads_to_the_place_that_was_evaluated_not_to_another_with_the_same_bytes(
    described: Path, check: Check, arguments: dict[str, Any], place: Path
) -> None:
    def known_place() -> str:
        return str(json.loads((described / "checkpoint.json").read_text())["path"])

    others = Path(shutil.copytree(place, place.parent / "others"))
    lead_elsewhere(described, others)
    load_from_elsewhere(described, others)
    check()
    assert known_place() == str(place)
    assert str(others) not in (described / "MLmodel").read_text()
    moved = arguments["manifest"].model_copy(update={"path": str(others)})
    check(moved)
    assert known_place() == str(others), "a run that evaluated it there says so"


def test_a_version_that_an_earlier_mergeflow_registered_gets_the_present_loader(
    described: Path, tiny_zoo: Any, place: Path, registry: str
) -> None:
    [loader] = (described / "code").glob("*.py")
    record = (described / "checkpoint.json").read_text()
    loader.rename(loader.with_name("mergeflow_loader_00000000.py"))
    (described / "checkpoint.json").write_text("{}")
    with sqlite3.connect(registry.removeprefix("sqlite:///")) as database:
        database.execute("DELETE FROM logged_model_tags WHERE tag_key = 'mergeflow.loader'")

    register_merge(**zoo_merge(tiny_zoo, place, registry, promote=False))

    assert loader.exists()
    assert (described / "checkpoint.json").read_text() == record


def test_what_changes_while_the_rest_is_written_is_seen_at_the_last_moment(
    arguments: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    real, weights = mlflow.MlflowClient.set_tag, place / "model.safetensors"
    sound = weights.read_bytes()

    def busy(self: Any, run_id: str, key: str, value: Any) -> None:
        if key == "mergeflow.previous_champion":
            flip(weights)
        real(self, run_id, key, value)

    monkeypatch.setattr(mlflow.MlflowClient, "set_tag", busy)

    def mend() -> None:
        monkeypatch.undo()
        weights.write_bytes(sound)

    assert_refused_until_mended(arguments, "changed meanwhile", mend)


def test_a_version_that_leads_to_another_model_is_not_promoted(
    described: Path, check: Check, registry: str
) -> None:
    for column in ("source", "storage_location"):
        with sqlite3.connect(registry.removeprefix("sqlite:///")) as database:
            select = f"SELECT {column} FROM model_versions WHERE version = 2"
            [before] = database.execute(select).fetchone()
            update = f"UPDATE model_versions SET {column} = ? WHERE version = 2"
            database.execute(update, ["/evil"])
        with pytest.raises(StepError, match="no longer leads to the checkpoint"):
            check()
        with sqlite3.connect(registry.removeprefix("sqlite:///")) as database:
            database.execute(update, [before])
    check()


def test_reading_all_bytes_shows_progress_and_is_spared_when_the_alias_stays(
    arguments: dict[str, Any], place: Path
) -> None:
    events: list[ProgressEvent] = []
    register_merge(**arguments, progress=events.append)
    assert events[-1].done == events[-1].total > (place / "model.safetensors").stat().st_size
    events.clear()
    flip(place / "model.safetensors")
    register_merge(**arguments, progress=events.append)
    assert not events


def test_the_registered_loader_refuses_files_that_came_later_without_reading_weights(
    described: Path, place: Path
) -> None:
    record = json.loads((described / "checkpoint.json").read_text())
    for name in ("README.md", "train.log", "checkpoint-500/model.safetensors"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("")
    registry_loader.check_files(record, "sizes")
    for name in ("adapter_config.json", "model-2.safetensors", "custom_generate/generate.py"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("")
        with pytest.raises(registry_loader.CheckpointUnavailableError, match=name):
            registry_loader.check_files(record, "sizes")
        (place / name).unlink()


def test_the_loader_of_a_stored_checkpoint_refuses_any_file_more(
    described: Path, place: Path
) -> None:
    record = json.loads((described / "checkpoint.json").read_text()) | {"stored": True}
    registry_loader.check_files(record, "sizes")
    for name in ("README.md", ".hidden", "deep/er/file", "\x1b[2J"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("")
        with pytest.raises(registry_loader.CheckpointUnavailableError) as refused:
            registry_loader.check_files(record, "sizes")
        assert "\x1b" not in str(refused.value)
        (place / name).unlink()
    (place / "model.safetensors").rename(place.parent / "weights")
    (place / "model.safetensors").symlink_to(place.parent / "weights")
    with pytest.raises(registry_loader.CheckpointUnavailableError, match="is a link"):
        registry_loader.check_files(record, "sizes")


def test_the_error_says_where_and_what_to_do(arguments: dict[str, Any], place: Path) -> None:
    flip(place / "model.safetensors")
    with pytest.raises(CheckpointError) as refused:
        register_merge(**arguments)
    assert str(place) in str(refused.value)
    assert "run the same command again" in str(refused.value)
