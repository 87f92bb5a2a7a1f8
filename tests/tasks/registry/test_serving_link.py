"""The link `serving/NAME`: it leads where the alias leads, and nothing of others is replaced."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from merge_core.errors import CheckpointError, OutputError, StepError
from merge_core.homes.home import Home
from tasks.audit.audit import audit_version
from tasks.registry.chosen_by_hand import promote, roll_back
from tasks.registry.client import open_registry
from tasks.registry.register import register_merge
from tasks.registry.serving_link import follow_alias
from tasks.store.needs import links_that_serve
from tests.support.audited import Audited
from tests.support.merge_store import clear_away
from tests.support.registrations import variant, zoo_merge
from tests.support.registry_contents import champion_holder, client


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def stored(audited: Audited, tmp_path: Path) -> Iterator[Audited]:
    """A copy of a home with objects; version 2 has the alias, and the link is asked for."""
    copy = audited.copied(tmp_path)
    with open_registry(copy.registry, writing=True) as registry:
        follow_alias(registry, copy.home, "model", "2")
    yield copy
    clear_away(Home(tmp_path))


def served(home: Home, name: str = "zoo") -> Path:
    return Path(os.path.realpath(home.serving / name))


def test_the_link_is_made_when_it_is_asked_for_and_follows_every_move(
    tiny_zoo: Any, merged: Path, registry: str, home: Home, tmp_path: Path
) -> None:
    unasked = zoo_merge(tiny_zoo, merged, registry)
    register_merge(**unasked, home=home)
    assert not home.serving.exists()
    register_merge(**unasked, home=home, serve=True)
    assert served(home) == merged
    assert home.serving.stat().st_mode & 0o777 == 0o700

    better = variant(merged, tmp_path / "better", "better")
    register_merge(**zoo_merge(tiny_zoo, better, registry), home=home)
    assert served(home) == better, "nobody had to ask again"
    roll_back(home, registry, "zoo", why="the canary failed")
    assert served(home) == merged
    promote(home, registry, "zoo", "1", why="by hand")
    assert served(home) == Path(tiny_zoo.base)
    assert sorted(path.name for path in home.serving.iterdir()) == ["zoo"]


@pytest.mark.slow
def test_an_object_of_the_home_is_led_to_by_a_way_that_moves_with_it(
    stored: Audited, tmp_path: Path
) -> None:
    link = stored.home.serving / "model"
    assert str(link.readlink()) == f"../store/objects/{stored.first_object}"
    assert served(stored.home, "model") == stored.object.resolve()
    reasons = links_that_serve(stored.home)
    assert reasons.places[str(stored.object.resolve())] == "serving/model leads to it"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["directory", "file", "link"])
def test_what_is_no_link_of_ours_is_refused_before_the_alias_moves(
    tiny_zoo: Any, merged: Path, registry: str, home: Home, tmp_path: Path, what: str
) -> None:
    place = home.serving / "zoo"
    home.serving.mkdir(parents=True)
    if what == "directory":
        place.mkdir()
    elif what == "file":
        place.write_text("mine")
    else:
        place.symlink_to(tmp_path)
    said = "leads out of the store" if what == "link" else "is no link"
    with pytest.raises(StepError, match=said) as refused:
        register_merge(**zoo_merge(tiny_zoo, merged, registry), home=home, serve=True)
    assert champion_holder(registry) is None
    place.rename(tmp_path / "away")
    assert "run the same command again" in str(refused.value.mend)
    register_merge(**zoo_merge(tiny_zoo, merged, registry), home=home, serve=True)
    assert served(home) == merged


@pytest.mark.slow
def test_a_link_that_cannot_be_switched_is_switched_by_the_same_command_again(
    tiny_zoo: Any, merged: Path, registry: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "symlink_to", full)
        with pytest.raises(OutputError, match="the alias has moved, and its link cannot"):
            register_merge(**zoo_merge(tiny_zoo, merged, registry), home=home, serve=True)
    assert champion_holder(registry) == "2"
    register_merge(**zoo_merge(tiny_zoo, merged, registry), home=home, serve=True)
    assert served(home) == merged


@pytest.mark.slow
def test_a_checkpoint_that_is_not_here_is_not_led_to(stored: Audited, tmp_path: Path) -> None:
    place = stored.object
    place.rename(tmp_path / "away")
    with (
        open_registry(stored.registry, writing=True) as registry,
        pytest.raises(CheckpointError, match="its checkpoint is not here to be served") as refused,
    ):
        follow_alias(registry, stored.home, "model", "2")
    (tmp_path / "away").rename(place)  # as it says
    assert str(refused.value.mend).startswith("bring it back there")
    with open_registry(stored.registry, writing=True) as registry:
        follow_alias(registry, stored.home, "model", "2")


@pytest.mark.slow
def test_the_audit_names_a_link_that_leads_elsewhere_than_the_alias(stored: Audited) -> None:
    def failing() -> list[str]:
        report = audit_version(stored.home, "models:/model/2", stored.registry)
        return [answer.what for answer in report.of("fails") if answer.check == "alias"]

    assert failing() == []
    link = stored.home.serving / "model"
    link.unlink()
    link.symlink_to(stored.base)
    assert failing() == [f"serving/model leads to {stored.base}, and version 2 has the alias"]


@pytest.mark.slow
def test_a_version_of_somebody_else_leaves_the_link(
    stored: Audited, caplog: pytest.LogCaptureFixture
) -> None:
    client(stored.registry).delete_model_version_tag("model", "3", "mergeflow.digest")
    with open_registry(stored.registry, writing=True) as registry:
        follow_alias(registry, stored.home, "model", "3")
    assert "mergeflow did not register version 3" in caplog.text
    assert served(stored.home, "model") == stored.object.resolve()
