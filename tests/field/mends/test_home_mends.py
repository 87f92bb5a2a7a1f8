"""Mends of homes: where they are, who can get into them, and which are believed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.field.mends.situations import Situation, situations
from tests.support.followed_mends import Advice, Later, Shell, Step
from tests.support.other_user import STRANGER

pytestmark = pytest.mark.slow  # `make field`

ENV = ("env",)


def named(path: Path | str) -> None:
    """Name a home, as the mends say: MERGEFLOW_HOME=PATH."""
    os.environ["MERGEFLOW_HOME"] = str(path)


def unnamed() -> None:
    """Let the home be found: in the working directory, or above it."""
    del os.environ["MERGEFLOW_HOME"]


def only_root_can() -> None:
    if os.geteuid():
        pytest.skip("only root can give something to another user")


def a_user_that_is_not_there(here: Path) -> Iterator[Step]:
    named("~nobody-of-this-name/home")
    yield ENV
    named(here / "home")
    yield ENV


def no_home_to_trust(here: Path) -> Iterator[Step]:
    unnamed()
    yield ("home", "trust", here / ".mergeflow")
    yield ("home", "create", here / ".mergeflow")


def the_directory_around_a_home(here: Path) -> Iterator[Step]:
    (here / "project/.mergeflow/cache").mkdir(parents=True)
    yield ("home", "trust", here / "project")
    yield ("home", "trust", here / "project/.mergeflow")


def a_directory_that_is_no_home(here: Path) -> Iterator[Step]:
    (here / "mine/cache").mkdir(parents=True)
    yield ("home", "trust", here / "a")
    yield ("home", "trust", here / "mine")


def a_home_that_exists(here: Path) -> Iterator[Step]:
    (here / ".mergeflow/cache").mkdir(parents=True)
    yield ("home", "create", ".mergeflow")
    yield ("home", "trust", ".mergeflow")


def a_home_that_is_not_in_the_list(here: Path) -> Iterator[Step]:
    assert not (here / "x").exists()
    yield ("home", "forget", "x")
    yield ("home", "list")


def a_home_that_came_with_the_files(here: Path) -> Iterator[Step]:
    unnamed()
    (here / ".mergeflow/cache").mkdir(parents=True)
    yield ENV
    named(here / "home")
    yield ENV


def a_home_below_a_file(here: Path) -> Iterator[Step]:
    (here / "file").write_text("")
    named(here / "file/home")
    yield ("home", "create", here / "file/home")
    named(here / "home")
    yield ("gc", "--no-registry")


def a_home_that_is_a_file(here: Path) -> Iterator[Step]:
    (here / "file").write_text("")
    named(here / "file")
    yield ENV
    named(here / "home")
    yield ENV


def a_home_that_leads_in_a_circle(here: Path) -> Iterator[Step]:
    (here / "one").symlink_to(here / "two")
    (here / "two").symlink_to(here / "one")
    named(here / "one")
    yield ENV
    named(here / "home")
    yield ENV


def a_home_on_no_disk(here: Path) -> Iterator[Step]:
    named("/proc/self/mergeflow")
    yield ENV
    named(here / "home")
    yield ENV


def a_link_of_another_user(here: Path) -> Iterator[Step]:
    only_root_can()
    (here / "real/home").mkdir(parents=True, mode=0o700)
    (here / "link").symlink_to(here / "real")
    os.chown(here / "link", STRANGER, STRANGER, follow_symlinks=False)
    named(here / "link/home")
    yield ENV
    named((here / "link/home").resolve())
    yield ENV


def a_home_below_an_open_directory(here: Path) -> Iterator[Step]:
    unnamed()
    (here / "shared/.mergeflow/cache").mkdir(parents=True)
    os.chdir(here / "shared")
    os.environ["MERGEFLOW_HOME"] = str(here / "shared/.mergeflow")
    from merge_core.homes.known import note_home

    note_home(here / "shared/.mergeflow")
    unnamed()
    (here / "shared").chmod(0o777)
    yield ENV
    (here / "shared").chmod(0o775)
    yield ENV


def a_place_for_everybody(here: Path) -> Iterator[Step]:
    (here / "tmp").mkdir()
    (here / "tmp").chmod(0o1777)
    named(here / "tmp")
    yield ENV
    named(here / "tmp/mergeflow")
    yield ("merge", "recipe.yaml", "out")


def an_open_directory_with_other_things(here: Path) -> Iterator[Step]:
    (here / "project").mkdir()
    (here / "project").chmod(0o755)
    (here / "project/thesis.tex").write_text("")
    named(here / "project")
    yield ENV
    (here / "project").chmod(0o700)
    yield ENV


def a_home_with_things_of_others(here: Path) -> Iterator[Step]:
    only_root_can()
    (here / "open/cache").mkdir(parents=True)
    (here / "open").chmod(0o777)
    (here / "open/cache/planted").write_text("")
    os.chown(here / "open/cache/planted", STRANGER, STRANGER)
    named(here / "open")
    yield ENV
    (here / "open/cache/planted").unlink()
    yield ENV


def a_list_that_others_may_write(here: Path) -> Iterator[Step]:
    unnamed()
    os.environ["XDG_CONFIG_HOME"] = str(here / "config")
    assert_made(here)
    (here / "config/mergeflow/homes").chmod(0o666)
    yield ENV
    (here / "config/mergeflow/homes").chmod(0o644)
    yield ENV


def a_list_that_cannot_be_read(here: Path) -> Iterator[Step]:
    unnamed()
    os.environ["XDG_CONFIG_HOME"] = str(here / "config")
    assert_made(here)
    (here / "config/mergeflow/homes").unlink()
    (here / "config/mergeflow/homes").mkdir()
    yield ENV
    named(here / ".mergeflow")
    yield ENV


def assert_made(here: Path) -> None:
    """Make a home in the working directory."""
    from flows.cli.program import run

    assert run(["home", "create"]) == 0
    assert (here / ".mergeflow").is_dir()


def a_store_that_is_for_nobody(here: Path) -> Iterator[Step]:
    (here / "home").mkdir(mode=0o700)
    named(here / "home")
    (here / "home/stack.yaml").write_text("store: everybody\n")
    yield ENV
    group = os.getegid()
    (here / "home/stack.yaml").write_text(f"store: {{group: {group}}}\n")
    yield ENV


def a_group_that_is_not_there(here: Path) -> Iterator[Step]:
    (here / "home").mkdir(mode=0o700)
    named(here / "home")
    (here / "home/stack.yaml").write_text("store: {group: no-such-group}\n")
    yield ENV
    (here / "home/stack.yaml").write_text(f"store: {{group: {os.getegid()}}}\n")
    yield ENV


def settings_of_prefect_beside(here: Path) -> Iterator[Step]:
    (here / ".env").write_text("PREFECT_LOGGING_LEVEL=DEBUG\n")
    yield ("status",)
    (here / ".env").write_text("OTHER=1\n")
    yield Later("nothing runs", ("status",))


def settings_that_cannot_be_read(here: Path) -> Iterator[Step]:
    (here / "prefect.toml").write_text("[")
    yield ("status",)
    os.chdir(here / "a")
    yield Later("nothing runs", ("status",))


def the_directory_of_a_deployment_is_gone(here: Path) -> Iterator[Step]:
    from flows.environment.starting_directory import VARIABLE, enter

    os.environ[VARIABLE] = str(here / "gone")
    yield (enter,)
    (here / "gone").mkdir()
    yield (enter,)


def nothing_in_the_quarantine(here: Path) -> Iterator[Step]:
    yield ("gc", "--restore", "abc", "--no-registry")
    yield ("gc", "--no-registry")


def a_link_for_the_quarantine(here: Path) -> Iterator[Step]:
    home = here / "home"
    named(home)
    merged()
    (home / "store").mkdir(exist_ok=True)
    (home / "store/quarantine").symlink_to(here / "a")
    yield ("gc", "--restore", "abc", "--no-registry")
    (home / "store/quarantine").unlink()
    yield Later("nothing waits there", ("gc", "--restore", "abc", "--no-registry"))


def merged() -> None:
    """Merge once, so that there is a home with a store."""
    from flows.cli.program import run

    assert run(["merge", "recipe.yaml", "once"]) == 0


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_home(
    situation: Situation,
    here: Path,
    mergeflow: Shell,
    advice: Advice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MERGEFLOW_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, os.environ[name])  # what a situation sets is taken back
    monkeypatch.delenv("MERGEFLOW_DIRECTORY", raising=False)
    (here / "recipe.yaml").write_text(
        "merge_method: linear\nmodels: [{model: ./a}, {model: ./b}]\n"
    )
    advice.follow(mergeflow, situation(here))
