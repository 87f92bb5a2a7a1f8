"""Whose a home is, and who could put another in its place: owners, links, directories above."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from merge_core.errors import HomeError
from merge_core.homes.belief import make_home
from merge_core.homes.home import Home
from tests.support.hostile_homes import EVIL, hostile_home, run
from tests.support.other_user import SERVING, STRANGER, as_user, in_user_namespace, needs_root


@needs_root
@pytest.mark.parametrize("named", [True, False])
def test_a_home_of_another_user_is_not_believed(
    named: bool,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    elsewhere.chmod(0o1777)
    home = elsewhere / ".mergeflow"
    as_user(lambda: hostile_home(home).chmod(0o700))
    if named:
        monkeypatch.setenv("MERGEFLOW_HOME", str(home))
    assert run("env") == 2
    said = capfd.readouterr()
    assert EVIL not in str(said)
    assert f"belongs to uid {STRANGER}" in said.err
    assert run("home", "trust", str(home)) == 2
    assert f"belongs to uid {STRANGER}" in capfd.readouterr().err
    monkeypatch.setenv("MERGEFLOW_HOME", str(elsewhere / "mine"))  # what the message says
    assert run("env") == 0


@needs_root
def test_a_user_does_not_believe_a_home_of_root(elsewhere: Path) -> None:
    home = elsewhere / ".mergeflow"
    hostile_home(home)
    home.chmod(0o755)

    def look() -> None:
        with pytest.raises(HomeError, match=r"belongs to root \(uid 0\)"):
            Home.discover()

    as_user(look)


@needs_root
def test_a_link_of_another_user_is_not_followed_to_ones_own_home(
    elsewhere: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere.chmod(0o1777)
    own = project / "own"
    monkeypatch.setenv("MERGEFLOW_HOME", str(own))
    Home.discover()
    as_user(lambda: (elsewhere / "home").symlink_to(own))
    monkeypatch.setenv("MERGEFLOW_HOME", str(elsewhere / "home"))
    with pytest.raises(HomeError, match=f"link .* of uid {STRANGER}"):
        Home.discover()
    (elsewhere / "mine").symlink_to(own)
    monkeypatch.setenv("MERGEFLOW_HOME", str(elsewhere / "mine"))
    assert Home.discover().path == elsewhere / "mine"


@needs_root
def test_root_makes_a_home_of_its_own_in_the_checkout_of_another_user(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container, or CI: root works in a bind mount whose files have another owner."""
    checkout = elsewhere / "checkout"
    checkout.mkdir()
    checkout.chmod(0o775)  # a host whose users have groups to themselves
    os.chown(checkout, STRANGER, STRANGER)
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("MERGEFLOW_HOME", str(checkout / ".mergeflow"))  # as `make demo` does
    Home.discover()
    monkeypatch.delenv("MERGEFLOW_HOME")
    assert Home.discover().path == checkout / ".mergeflow"
    assert (checkout / ".mergeflow").stat().st_uid == 0

    def swap() -> None:
        (checkout / ".mergeflow").rename(checkout / "put-away")
        hostile_home(checkout / ".mergeflow")

    as_user(swap)
    with pytest.raises(HomeError, match="belongs to uid"):
        Home.discover()


@needs_root
def test_a_list_of_homes_that_somebody_else_could_write_is_not_believed(
    project: Path, tmp_path: Path
) -> None:
    assert run("home", "create") == 0
    homes = tmp_path / "config" / "mergeflow" / "homes"
    assert stat.S_IMODE(homes.stat().st_mode) == 0o600
    assert stat.S_IMODE(homes.parent.stat().st_mode) == 0o700
    homes.chmod(0o622)
    with pytest.raises(HomeError, match="other users may write the list"):
        Home.discover()
    homes.chmod(0o600)
    os.chown(homes, STRANGER, STRANGER)  # `sudo` that keeps HOME
    with pytest.raises(HomeError, match="list of your homes belongs to"):
        Home.discover()


def test_a_home_whose_owner_cannot_be_seen_is_told(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rootless containers: files of users that they do not know belong to nobody."""
    home = hostile_home(elsewhere / ".mergeflow")
    monkeypatch.setenv("MERGEFLOW_HOME", str(home))

    def look(words: str) -> None:
        with pytest.raises(HomeError, match=words):
            Home.discover()

    in_user_namespace(lambda: look("same owner"), mapped=False)
    in_user_namespace(Home.discover, mapped=True)
    if os.geteuid() == 0:
        os.chown(home, STRANGER, STRANGER)
        in_user_namespace(lambda: look("cannot be seen from here"), mapped=True)


def test_a_sticky_directory_of_root_passes_above_a_home(
    elsewhere: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if elsewhere.stat().st_uid != 0:
        pytest.skip("the test would have to own a directory as root")
    elsewhere.chmod(0o1777)
    assert run("home", "create") == 0
    assert run("env") == 0
    assert capfd.readouterr().err == ""


def test_a_directory_above_that_everybody_may_write_to_is_refused_until_it_is_closed(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("home", "create") == 0
    elsewhere.chmod(0o777)
    assert run("env") == 2
    said = capfd.readouterr().err
    assert "every user of this machine may write to" in said
    monkeypatch.setenv("MERGEFLOW_HOME", str(elsewhere / ".mergeflow"))
    assert run("env") == 0
    assert "every user of this machine may write to" in capfd.readouterr().err
    monkeypatch.delenv("MERGEFLOW_HOME")
    command = re.search(r"chmod o-w \S+", said.replace(",", ""))
    assert command
    subprocess.run(command[0], shell=True, check=True)
    assert run("env") == 0


def test_a_directory_above_that_its_group_may_write_to_only_warns_if_it_is_ones_own(
    elsewhere: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("home", "create") == 0
    elsewhere.chmod(0o775)
    assert run("env") == 0
    if os.geteuid() == 0:  # another user's group may be private to that user
        assert f"may write to {elsewhere} above it" in capfd.readouterr().err


@needs_root
@pytest.mark.parametrize("mode", [0o775, 0o777, 0o1777])
def test_a_directory_above_of_another_user_is_refused_if_others_may_write_to_it(
    mode: int, elsewhere: Path
) -> None:
    above = elsewhere / "above"
    above.mkdir()
    elsewhere.chmod(0o1777)
    above.chmod(0o777)

    def use() -> None:
        os.environ["XDG_CONFIG_HOME"] = str(elsewhere / "config")
        os.environ["HOME"] = str(elsewhere / "home-directory")
        make_home(above / ".mergeflow")
        os.chdir(above)
        with pytest.raises(HomeError, match="every user"):
            Home.discover()

    as_user(use)
    above.chmod(mode)
    os.chown(above, SERVING, SERVING)

    def look() -> None:
        os.environ["XDG_CONFIG_HOME"] = str(elsewhere / "config")
        with pytest.raises(HomeError, match="may write to"):
            Home.discover()

    os.chdir(above)
    as_user(look)
