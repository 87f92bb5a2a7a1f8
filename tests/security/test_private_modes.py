"""Everything that mergeflow keeps is its user's alone, whatever umask it is run with; what the user
asked to have written somewhere follows the user's umask, as with any other program.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import program
from flows.model_zoo import Zoo
from merge_core.errors import HomeError
from merge_core.files import private
from merge_core.files.digests import DigestMemo
from merge_core.files.private import as_open_as, private_umask
from merge_core.homes.home import Home
from merge_core.operations.merge import merge
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from tests.support.other_user import (
    STRANGER,
    as_user,
    needs_root,
    opens_nothing,
    reachable_directory,
)
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama

ANY_UMASK = [0o000, 0o002, 0o022, 0o077]


@pytest.fixture(params=ANY_UMASK, ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(home: Path) -> list[str]:
    """Everything in a home, and the home itself, that anybody but its owner has a right to."""
    return [
        f"{path} {stat.S_IMODE(path.lstat().st_mode):04o}"
        for path in [home, *home.rglob("*")]
        if not path.is_symlink() and path.lstat().st_mode & 0o077
    ]


@pytest.fixture
def models(tmp_path: Path) -> dict[str, SourceCheckpoint]:
    weights = base_weights()
    return {
        "base": write_llama(tmp_path / "base", weights),
        "expert": write_llama(tmp_path / "expert", fine_tuned(weights, 1)),
    }


RECIPE = "merge_method: linear\nmodels: [{model: base}, {model: expert}]\n"


@pytest.mark.slow  # in `make sessions`; without Prefect's own server it is in test_flow
def test_after_a_whole_pipeline_a_home_is_its_owners_alone(
    tiny_zoo: Zoo, home: Home, tmp_path: Path
) -> None:
    """Prefect's server and results, MLflow's database and artifacts, store, caches, logs."""
    shutil.copytree(tiny_zoo.suite, tmp_path / "suite")
    suite = yaml.safe_load((tmp_path / "suite" / "suite.yaml").read_text())
    suite["tasks"] = [task for task in suite["tasks"] if task["task"].endswith("bpb")][:1]
    (tmp_path / "suite" / "suite.yaml").write_text(yaml.safe_dump(suite))
    models = [
        {"model": str(tiny_zoo.directory / name), "parameters": {"weight": 0.5}}
        for name in ("code-expert", "prose-expert")
    ]
    pipeline: dict[str, Any] = {
        "name": "zoo",
        "recipe": {
            "merge_method": "task_arithmetic",
            "base_model": str(tiny_zoo.base),
            "models": models,
        },
        "evaluate": {"suite": str(tmp_path / "suite")},
        "promote": {"max_regression": 1.0, "min_gain": -1.0, "min_documents": 1},
        "register": {"model": "zoo"},
    }
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    command = [sys.executable, "-m", "flows.cli", "run", str(tmp_path / "pipeline.yaml")]
    done = subprocess.run(command, umask=0, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = {path.name for path in home.path.iterdir()}
    assert {"cache", "digests.sqlite", "logs", "mlflow", "prefect", "store"} <= made
    assert (home.prefect / "prefect.db").is_file()
    assert list(home.objects.glob("*/model.safetensors"))
    assert open_to_others(home.path) == []


def test_a_merge_into_the_store_is_its_owners_alone(
    models: dict[str, SourceCheckpoint], tmp_path: Path, umask: int
) -> None:
    home = Home(tmp_path / "deep" / "home")
    manifest = merge(parse_recipe(yaml.safe_load(RECIPE)), models, home=home)
    assert (Path(manifest.path) / "model.safetensors").stat().st_mode & 0o777 == 0o400
    assert open_to_others(tmp_path / "deep") == []
    again = merge(parse_recipe(yaml.safe_load(RECIPE)), models, home=home)
    assert again.object_id == manifest.object_id


def test_what_a_merge_writes_for_the_user_follows_the_users_umask(
    models: dict[str, SourceCheckpoint],
    home: Home,
    tmp_path: Path,
    umask: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    assert program.run(["merge", "recipe.yaml", "below/out"]) == 0
    out = tmp_path / "below" / "out"
    assert stat.S_IMODE(out.stat().st_mode) == 0o777 & ~umask
    assert stat.S_IMODE((out.parent).stat().st_mode) == 0o777 & ~umask
    assert stat.S_IMODE((out / "config.json").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((out / "model.safetensors").stat().st_mode) == 0o644 & ~umask
    assert home.digest_memo is not None
    assert home.digest_memo.is_file()
    assert open_to_others(home.path) == []


def test_a_home_and_the_directories_made_for_it_are_private(
    tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MERGEFLOW_HOME", str(tmp_path / "a" / "b" / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    Home.discover()
    assert open_to_others(tmp_path / "a") == []
    assert open_to_others(tmp_path / "config") == []


def test_a_memo_that_was_open_is_closed_when_it_is_opened(tmp_path: Path, umask: int) -> None:
    memo = tmp_path / "memo" / "digests.sqlite"
    DigestMemo(memo)
    assert stat.S_IMODE(memo.stat().st_mode) == 0o600
    memo.chmod(0o644)
    DigestMemo(memo)
    assert stat.S_IMODE(memo.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o755, 0o775, 0o777, 0o710, 0o701])
def test_ones_own_open_home_is_closed_with_a_word(
    mode: int, home: Home, open_umask: None, capfd: pytest.CaptureFixture[str]
) -> None:
    (home.path / "cache" / "deep").mkdir(parents=True)
    (home.path / "cache" / "deep" / "record").write_text("{}")
    (home.path / "digests.sqlite").touch()
    (home.path / "store" / "link").parent.mkdir()
    (home.path / "store" / "link").symlink_to(home.path.parent / "target")
    (home.path.parent / "target").touch()
    home.path.chmod(mode)
    assert program.run(["env"]) == 0
    said = capfd.readouterr().err
    assert f"was open to other users of this machine (mode {mode:04o}" in said or mode == 0o710
    assert "cache/deep/record" in said  # others could have written to it
    assert not (home.path / "digests.sqlite").exists()  # and this would be believed unseen
    assert open_to_others(home.path) == []
    assert stat.S_IMODE((home.path.parent / "target").stat().st_mode) == 0o666
    assert program.run(["env"]) == 0
    assert capfd.readouterr().err == ""


@needs_root
def test_a_file_system_that_lets_no_mode_be_changed_is_told_of(
    home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    home.path.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "mode=755", "home", str(home.path)]
    if subprocess.run(mounted, check=False, capture_output=True).returncode:
        pytest.skip("this root may not mount anything")
    try:
        (home.path / "cache").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(home.path)], check=True)
        for _ in range(2):
            assert program.run(["gc", "--no-registry"]) == 0
        assert capfd.readouterr().err.count("nothing of this home is guarded") == 1
    finally:
        subprocess.run(["umount", str(home.path)], check=True)


def test_a_memo_that_nobody_else_could_write_to_is_kept(home: Home) -> None:
    """As in a home that version 5eaacac made with the usual umask: its digests are not lost."""
    assert home.digest_memo is not None
    DigestMemo(home.digest_memo).remember(home.path, "a", "b")
    home.digest_memo.chmod(0o644)
    home.path.chmod(0o755)
    Home.discover()
    assert home.digest_memo.is_file()
    assert open_to_others(home.path) == []


@needs_root
def test_what_another_user_put_into_an_open_home_is_not_believed_until_it_is_gone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with reachable_directory() as directory:
        home = directory / "home"
        (home / "stack").mkdir(parents=True)
        (home / "stack").chmod(0o777)
        home.chmod(0o755)
        as_user(lambda: (home / "stack" / "stack.json").write_text("{}"))
        monkeypatch.setenv("MERGEFLOW_HOME", str(home))
        for _ in range(2):
            assert program.run(["env"]) == 2
            said = capfd.readouterr().err
            assert f"belong to uid {STRANGER}: stack/stack.json" in said
        command = said.rpartition("sudo ")[2]
        subprocess.run(command, shell=True, check=True)
        assert program.run(["env"]) == 0
        assert open_to_others(home) == []


@needs_root
def test_another_user_gets_at_nothing(
    models: dict[str, SourceCheckpoint], monkeypatch: pytest.MonkeyPatch, open_umask: None
) -> None:
    with reachable_directory() as directory:
        monkeypatch.setenv("MERGEFLOW_HOME", str(directory / "home"))
        home = Home.discover()
        manifest = merge(parse_recipe(yaml.safe_load(RECIPE)), models, home=home)
        assert home.digest_memo is not None
        DigestMemo(home.digest_memo).remember(home.path, "a", "b")
        weights = Path(manifest.path) / "model.safetensors"
        places = (home.path, home.objects, Path(manifest.path), weights, home.digest_memo)
        as_user(lambda: opens_nothing(*places))


def test_a_home_in_an_open_directory_cannot_be_followed_by_a_link(
    tmp_path: Path, home: Home
) -> None:
    """A file that is closed is the one in the home, not what a link leads to."""
    target = tmp_path / "target"
    target.touch(0o644)
    target.chmod(0o644)
    home.path.mkdir(mode=0o755)
    (home.path / "stack.yaml").symlink_to(target)
    (home.path / "logs").symlink_to(tmp_path)
    target.write_text("{}")
    Home.discover()
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


def test_a_home_whose_stack_file_makes_no_sense_is_told(
    home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    home.path.mkdir(mode=0o700)
    (home.path / "stack.yaml").write_text("store: [")
    assert program.run(["env"]) == 2
    assert "stack.yaml" in capfd.readouterr().err
    assert program.run(["methods"]) == 0


def test_what_goes_into_a_shared_directory_is_as_open_as_that(
    tmp_path: Path, open_umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub's cache may be shared by several users: their downloads must stay readable."""
    # The Prefect session of other tests may hold a private umask all the while.
    monkeypatch.setattr(private, "_umasks", type(private._umasks)())
    for mode, expected in ((0o755, 0o644), (0o775, 0o664), (0o700, 0o600), (0o777, 0o664)):
        shared = tmp_path / oct(mode)
        shared.mkdir()
        shared.chmod(mode)
        with private_umask():
            with as_open_as(shared):
                (shared / "file").touch()
            (shared / "private").touch()
        assert stat.S_IMODE((shared / "file").stat().st_mode) == expected
        assert stat.S_IMODE((shared / "private").stat().st_mode) == 0o600
    with private_umask(), as_open_as(tmp_path / "missing" / "cache"):
        (tmp_path / "made").touch()
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o600
    with as_open_as(tmp_path / "0o755"):  # the user's own umask holds
        (tmp_path / "own").touch()
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o666


def test_a_home_that_cannot_be_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MERGEFLOW_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(HomeError) as told:
        Home.discover()
    assert told.value.mend
