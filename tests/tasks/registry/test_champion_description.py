"""What MLflow holds of the champion is looked at by the runs that it stays with, weights unread."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from merge_core.errors import MergeflowError
from tasks.records import Registration
from tasks.registry import loader as registry_loader
from tasks.registry.register import register_merge
from tests.support.edited_descriptions import ATTACKS, lead_elsewhere
from tests.support.edited_objects import flip, loosen, sha256
from tests.support.registrations import variant, zoo_merge
from tests.support.registry_contents import artifacts_of


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


def described_champion(result: Registration, registry: str) -> Path:
    return artifacts_of(registry) / "models" / str(result.champion.logged_model_id) / "artifacts"


def test_the_description_of_a_champion_is_written_anew_by_the_run_that_it_stays_with(
    arguments: dict[str, Any], place: Path, registry: str
) -> None:
    described = described_champion(register_merge(**arguments), registry)
    sound = {path: sha256(path) for path in described.rglob("*.*") if path.is_file()}
    evil = Path(shutil.copytree(place, place.parent / "evil"))
    flip(evil / "model.safetensors")
    for attack in ATTACKS:
        attack(described, evil)
        register_merge(**arguments)
        assert {path: sha256(path) for path in sound if path.name != "MLmodel"} == {
            path: digest for path, digest in sound.items() if path.name != "MLmodel"
        }, attack
        assert str(evil) not in (described / "MLmodel").read_text()
        assert "verify: sizes" in (described / "MLmodel").read_text()
    registry_loader._load_pyfunc(str(described / "checkpoint.json"), {"verify": "digests"})


def test_what_was_added_beside_a_champion_is_refused_by_the_run_that_it_stays_with(
    arguments: dict[str, Any], place: Path, registry: str
) -> None:
    described = described_champion(register_merge(**arguments), registry)
    for added, match in (
        (described / "code" / "torch.py", "MLflow holds code/torch.py"),
        (place / "adapter_config.json", "adapter_config.json there was not registered"),
    ):
        added.write_text("{}")
        with pytest.raises(MergeflowError, match=match) as refused:
            register_merge(**arguments)
        assert "remove" in str(refused.value.mend)
        added.unlink()
        register_merge(**arguments)


def test_what_the_loader_says_to_do_helps_also_with_the_champion(
    arguments: dict[str, Any], place: Path, registry: str
) -> None:
    described = described_champion(register_merge(**arguments), registry)
    lead_elsewhere(described, place.parent / "gone")
    with pytest.raises(registry_loader.CheckpointUnavailableError, match="run the pipeline"):
        registry_loader._load_pyfunc(str(described / "checkpoint.json"))
    register_merge(**arguments)
    registry_loader._load_pyfunc(str(described / "checkpoint.json"))


def test_the_description_of_a_base_that_keeps_the_alias_is_looked_at_too(
    tiny_zoo: Any, place: Path, registry: str
) -> None:
    arguments = zoo_merge(tiny_zoo, place, registry, promote=False)
    described = described_champion(register_merge(**arguments), registry)
    [loader] = (described / "code").glob("*.py")
    sound = loader.read_bytes()
    loader.write_text("raise SystemExit\n")
    register_merge(**arguments)
    assert loader.read_bytes() == sound
