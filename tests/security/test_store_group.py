"""`store: {group: NAME}` opens published checkpoints to a serving account's group, for reading, and
nothing else of the home.
"""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli import program
from flows.stack.config import read_stack_config
from merge_core.errors import HomeError, MergeflowError
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.operations.merge import merge
from merge_core.recipes.loading import parse_recipe
from merge_core.records import CheckpointManifest, SourceCheckpoint
from tests.support.other_user import (
    SERVING,
    SERVING_GROUP,
    as_user,
    needs_root,
    opens_nothing,
    reachable_directory,
)
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama


@pytest.fixture
def models(tmp_path: Path) -> dict[str, SourceCheckpoint]:
    weights = base_weights()
    return {
        "base": write_llama(tmp_path / "base", weights),
        "expert": write_llama(tmp_path / "expert", fine_tuned(weights, 1)),
    }


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home that other users can get to, as far as its own modes let them."""
    with reachable_directory() as directory:
        monkeypatch.setenv("MERGEFLOW_HOME", str(directory / "home"))
        home = Home.discover()
        for private in (home.cache, home.mlflow, home.logs):
            private.mkdir(mode=0o755)
            (private / "private").touch()
        assert home.digest_memo is not None
        DigestMemo(home.digest_memo)
        yield home


def publish(home: Home, models: dict[str, SourceCheckpoint], weight: float) -> CheckpointManifest:
    weights = {"base": weight, "expert": 1.0 - weight}
    entries = [{"model": name, "parameters": {"weight": weights[name]}} for name in models]
    recipe = parse_recipe({"merge_method": "linear", "models": entries})
    return merge(recipe, models, home=home)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def an_own_group() -> int:
    """A group that this process may give files to, if possible another than its first."""
    return next((group for group in os.getgroups() if group != os.getegid()), os.getegid())


def set_group(home: Home, group: int | str | None) -> None:
    text = "" if group is None else f"store: {{group: {group}}}\n"
    home.stack_file.write_text(f"workers: 1\n{text}")


@needs_root
def test_a_serving_account_reads_the_store_and_nothing_else(
    shared: Home, models: dict[str, SourceCheckpoint]
) -> None:
    before = publish(shared, models, 0.4)
    set_group(shared, SERVING_GROUP)
    Home.discover()
    after = publish(shared, models, 0.6)
    assert shared.digest_memo is not None
    closed = (
        *(shared.cache, shared.mlflow, shared.logs, shared.stack_file, shared.digest_memo),
        *(shared.cache / "private", shared.path / "identity", shared.staging),
        *(shared.path / "store" / "plans", shared.path / "store" / "statistics"),
    )

    def serve() -> None:
        for manifest in (before, after):
            for file in manifest.files:
                assert (Path(manifest.path) / file.name).read_bytes()
            with pytest.raises(PermissionError):
                (Path(manifest.path) / "config.json").write_text("{}")
            with pytest.raises(PermissionError):
                (Path(manifest.path) / "planted").touch()
        assert {path.name for path in shared.objects.iterdir()} == {
            before.object_id,
            after.object_id,
        }
        opens_nothing(*closed)
        for place in (shared.path, shared.path / "store"):
            with pytest.raises(PermissionError):
                list(place.iterdir())
            with pytest.raises(PermissionError):
                (place / "planted").touch()

    as_user(serve, SERVING, SERVING, (SERVING_GROUP,))
    as_user(lambda: opens_nothing(shared.path, shared.objects, Path(after.path)), SERVING, SERVING)


@needs_root
def test_what_was_published_before_is_opened_and_closed_again_with_a_word(
    shared: Home, models: dict[str, SourceCheckpoint], capfd: pytest.CaptureFixture[str]
) -> None:
    served = Path(publish(shared, models, 0.5).path)
    set_group(shared, SERVING_GROUP)
    assert program.run(["env"]) == 0
    said = capfd.readouterr().err
    assert f"gid {SERVING_GROUP} may read its store; 1 published checkpoints were opened" in said
    assert [mode(place) for place in (shared.path, shared.path / "store", shared.objects)] == [
        *(0o710, 0o710, 0o750)
    ]
    assert mode(served / "model.safetensors") == 0o440
    assert mode(served) & 0o057 == 0o050
    assert program.run(["env"]) == 0
    assert capfd.readouterr().err == ""
    set_group(shared, None)
    assert program.run(["env"]) == 0
    assert f"was open to gid {SERVING_GROUP}" in capfd.readouterr().err
    everything = [shared.path, *shared.path.rglob("*")]
    assert [path for path in everything if mode(path) & 0o077] == []
    as_user(lambda: opens_nothing(served, shared.objects), SERVING, SERVING, (SERVING_GROUP,))


@needs_root
def test_what_turns_up_open_in_a_home_that_a_group_may_pass_is_closed(shared: Home) -> None:
    set_group(shared, SERVING_GROUP)
    Home.discover()
    (shared.path / "scheduled").mkdir()
    (shared.path / "scheduled").chmod(0o755)
    (shared.path / "store" / "notes").touch()
    (shared.path / "store" / "notes").chmod(0o644)
    Home.discover()
    assert mode(shared.path / "scheduled") == 0o700
    assert mode(shared.path / "store" / "notes") == 0o600


@needs_root
def test_an_opening_that_was_cut_short_is_finished_by_the_next_command(
    shared: Home, models: dict[str, SourceCheckpoint]
) -> None:
    served = Path(publish(shared, models, 0.5).path)
    set_group(shared, SERVING_GROUP)
    Home.discover()
    for path in (served / "config.json", served):  # as it was before
        os.chown(path, -1, 0)
        path.chmod(mode(path) & 0o700)
    Home.discover()
    as_user(lambda: (served / "config.json").read_bytes(), SERVING, SERVING, (SERVING_GROUP,))


def test_links_in_the_store_lead_no_change_out_of_it(
    shared: Home, tmp_path: Path, models: dict[str, SourceCheckpoint]
) -> None:
    publish(shared, models, 0.5)
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "file").touch(0o600)
    (shared.objects / "linked").symlink_to(outside)
    (shared.path / "linked").symlink_to(outside)
    set_group(shared, an_own_group())
    Home.discover()
    assert mode(outside) == 0o700
    assert mode(outside / "file") == 0o600


def test_a_users_own_group_can_be_named_without_root(
    shared: Home, models: dict[str, SourceCheckpoint], capfd: pytest.CaptureFixture[str]
) -> None:
    group = an_own_group()
    set_group(shared, group)
    served = Path(publish(shared, models, 0.5).path)
    assert (served.stat().st_gid, mode(served / "config.json")) == (group, 0o440)
    assert program.run(["home", "show", "--json"]) == 0
    assert "open to" in capfd.readouterr().out


def test_a_group_by_name_is_the_same_as_by_number(shared: Home) -> None:
    try:
        name = grp.getgrgid(os.getegid()).gr_name
    except KeyError:
        pytest.skip("this process's group has no name")
    set_group(shared, name)
    Home.discover()
    assert shared.objects.stat().st_gid == os.getegid()
    assert mode(shared.objects) == 0o750
    config = read_stack_config(shared).store
    assert config is not None
    assert config.group == name


@pytest.mark.parametrize("said", ["{group: no-such-group}", "{groups: x}", "mine", "{group: -1}"])
def test_a_group_that_there_is_not_is_told_and_nothing_is_opened(
    said: str, shared: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    shared.stack_file.write_text(f"store: {said}\n")
    assert program.run(["env"]) == 2
    assert "stack.yaml: store" in capfd.readouterr().err
    assert mode(shared.path) == 0o700
    with pytest.raises(MergeflowError):
        merge(parse_recipe({"merge_method": "linear", "models": []}), {}, home=shared)


@needs_root
def test_a_group_that_one_is_no_member_of_is_told() -> None:
    with reachable_directory() as directory:
        os.chown(directory, SERVING, SERVING)

        def try_it() -> None:
            os.environ["MERGEFLOW_HOME"] = str(directory / "home")
            os.environ["XDG_CONFIG_HOME"] = str(directory / "config")
            set_group(Home.discover(), SERVING_GROUP)
            with pytest.raises(HomeError, match="no member of it"):
                Home.discover()

        as_user(try_it, SERVING, SERVING)
        assert mode(directory / "home") == 0o700
