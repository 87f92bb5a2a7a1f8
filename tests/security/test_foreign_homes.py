"""A home gives orders: whose servers are used, what is cached, which groups may read. One that is
another user's, or that came with a clone or an archive, is not believed, and nothing of it is read.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sqlite3
import stat
import tarfile
from pathlib import Path

import pytest

from merge_core.errors import HomeError
from merge_core.homes.home import Home
from tests.support.hostile_homes import EVIL, git, hostile_home, mend_of, run, snapshot
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama


@pytest.fixture
def recipe(project: Path) -> Path:
    """A merge that needs no home."""
    write_llama(project / "base", base_weights())
    write_llama(project / "expert", fine_tuned(base_weights(), seed=1))
    path = project / "recipe.yaml"
    path.write_text("merge_method: linear\nmodels: [{model: base}, {model: expert}]\n")
    return path


@pytest.mark.parametrize(
    "command", [["env"], ["status"], ["lineage", "models:/m@champion"], ["gc"]]
)
def test_a_home_that_came_with_a_clone_redirects_nothing(
    command: list[str], project: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hostile_home(tmp_path / "origin" / ".mergeflow")
    git(tmp_path / "origin", "init", "-q")
    git(tmp_path / "origin", "add", "-A", "-f")
    git(tmp_path / "origin", "commit", "-q", "-m", "all")
    git(project, "clone", "-q", str(tmp_path / "origin"), "clone")
    os.chdir("clone")
    assert run(*command) == 2
    out, said = capfd.readouterr()
    assert out == ""
    assert EVIL not in said
    assert "not in the list of your homes" in said
    assert "mergeflow home trust" in said


def test_a_home_of_an_archive_is_not_passed_over_for_one_further_up(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("home", "create") == 0
    inner = hostile_home(project / "unpacked" / ".mergeflow")
    os.chdir(inner.parent)
    with pytest.raises(HomeError, match="not in the list"):
        Home.discover()
    os.chdir(project)
    assert Home.discover().path == project / ".mergeflow"


def test_what_the_message_says_makes_a_home_of_ones_own_believed(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A home that version 5eaacac made in a project: nobody has put it into the list."""
    place = project / "it's a project"
    (place / ".mergeflow" / "cache").mkdir(parents=True)
    os.chdir(place)
    assert run("env") == 2
    assert run(*mend_of(capfd.readouterr().err)) == 0
    capfd.readouterr()
    assert run("env") == 0
    out, said = capfd.readouterr()
    assert f"MERGEFLOW_HOME={shlex.quote(str(place / '.mergeflow'))}" in out
    assert said == ""


def test_naming_a_home_believes_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = project / ".mergeflow"
    (home / "cache").mkdir(parents=True)
    with pytest.raises(HomeError):
        Home.discover()
    monkeypatch.setenv("MERGEFLOW_HOME", str(home))
    assert Home.discover().path == home
    monkeypatch.delenv("MERGEFLOW_HOME")
    with pytest.raises(HomeError):
        Home.discover()


def test_a_home_that_a_command_made_is_believed_where_it_is_found(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MERGEFLOW_HOME", str(project / ".mergeflow"))
    Home.discover()
    monkeypatch.delenv("MERGEFLOW_HOME")
    (project / "deep" / "inside").mkdir(parents=True)
    os.chdir(project / "deep" / "inside")
    assert Home.discover().path == project / ".mergeflow"


def test_the_users_own_home_is_believed_from_above_and_by_default(project: Path) -> None:
    own = Path.home() / ".mergeflow"
    (own / "cache").mkdir(parents=True)
    assert Home.discover().path == own
    (Path.home() / "below").mkdir()
    os.chdir(Path.home() / "below")
    assert Home.discover().path == own


def test_a_clone_in_the_place_of_a_trusted_home_is_another_home(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("home", "create") == 0
    home = project / ".mergeflow"
    shutil.rmtree(home)
    hostile_home(home)
    with pytest.raises(HomeError, match="another than the one that was here"):
        Home.discover()
    (home / "identity").write_text("0" * 64 + "\n")
    with pytest.raises(HomeError, match="another than the one that was here"):
        Home.discover()


def test_a_token_that_came_with_a_home_is_worth_nothing(project: Path) -> None:
    """Somebody ships a home that its victim is made to trust once, and then another one."""
    home = hostile_home(project / ".mergeflow")
    (home / "identity").write_text("ab" * 32 + "\n")
    assert run("home", "trust", ".mergeflow") == 0
    assert (home / "identity").read_text().startswith("ab" * 32)
    shutil.rmtree(home)
    hostile_home(home)
    (home / "identity").write_text("ab" * 32 + "\n")
    with pytest.raises(HomeError, match="another than the one"):
        Home.discover()


def test_a_copy_of_a_trusted_home_is_not_trusted_and_a_move_is_noticed(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("home", "create") == 0
    copy, moved = project.parent / "copy", project.parent / "moved"
    shutil.copytree(project, copy)
    os.chdir(copy)
    with pytest.raises(HomeError, match="is a copy of"):
        Home.discover()
    project.rename(moved)
    os.chdir(moved)
    capfd.readouterr()
    assert run("env") == 0
    assert f"was moved here from {project / '.mergeflow'}" in capfd.readouterr().err
    assert run("env") == 0
    assert "moved" not in capfd.readouterr().err
    os.chdir(copy)
    with pytest.raises(HomeError, match="is a copy of"):
        Home.discover()


def test_a_named_home_that_was_moved_is_listed_where_it_is_and_a_copy_is_called_one(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("home", "create") == 0
    copy, moved = project.parent / "copy", project.parent / "moved"
    shutil.copytree(project, copy)
    project.rename(moved)
    os.chdir(project.parent)
    monkeypatch.setenv("MERGEFLOW_HOME", str(moved / ".mergeflow"))
    capfd.readouterr()
    assert run("home", "show") == 0
    shown = capfd.readouterr()
    assert str(project) not in shown.out
    assert f"was moved here from {project / '.mergeflow'}" in shown.err
    assert run("home", "list", "--json") == 0
    assert json.loads(capfd.readouterr().out) == [str(moved / ".mergeflow")]
    monkeypatch.setenv("MERGEFLOW_HOME", str(copy / ".mergeflow"))
    assert run("home", "show", "--json") == 0
    assert json.loads(capfd.readouterr().out)["copy_of"] == str(moved / ".mergeflow")


def test_a_home_from_a_backup_is_believed_at_its_place(project: Path, tmp_path: Path) -> None:
    assert run("home", "create") == 0
    home = project / ".mergeflow"
    with tarfile.open(tmp_path / "backup.tar", "w") as archive:
        archive.add(home, ".mergeflow")
    shutil.rmtree(home)
    with tarfile.open(tmp_path / "backup.tar") as archive:
        archive.extractall(project, filter="tar")
    assert Home.discover().path == home


def test_a_link_that_came_with_a_clone_does_not_lead_to_a_trusted_home(
    project: Path, tmp_path: Path
) -> None:
    assert run("home", "create") == 0
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone" / ".mergeflow").symlink_to(project / ".mergeflow")
    os.chdir(tmp_path / "clone")
    with pytest.raises(HomeError, match="is a copy of"):
        Home.discover()
    assert run("home", "trust", ".mergeflow") == 0
    assert Home.discover().path == tmp_path / "clone" / ".mergeflow"
    os.chdir(project)
    assert Home.discover().path == project / ".mergeflow"


def test_adding_a_project_to_git_leaves_its_home_out(project: Path) -> None:
    assert run("home", "create") == 0
    git(project, "init", "-q")
    git(project, "add", "-A")
    assert git(project, "ls-files") == ""


@pytest.mark.parametrize("command", ["merge", "verify", "plan", "explain", "profile"])
def test_what_needs_no_home_works_beside_one_that_is_not_believed_and_reads_nothing_of_it(
    command: str, project: Path, recipe: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    home = hostile_home(project / ".mergeflow")
    _poisoned_memo(home / "digests.sqlite", project)
    before = snapshot(home)
    if command == "profile":
        recipe.write_text(
            "merge_method: task_arithmetic\nbase_model: base\n"
            "models: [{model: expert, parameters: {weight: 1.0}}]\n"
        )
    assert run(command, str(recipe), *(["out"] if command == "merge" else [])) == 0
    assert snapshot(home) == before
    assert EVIL not in str(capfd.readouterr())
    assert "MLFLOW_TRACKING_URI" not in os.environ
    if command == "merge":
        assert "f" * 64 not in (project / "out" / "mergeflow_manifest.json").read_text()


@pytest.mark.parametrize(
    "arguments", [["methods"], ["--help"], ["--version"], ["run", "--help"], ["home", "list"]]
)
def test_help_and_lists_look_at_no_home(arguments: list[str], project: Path) -> None:
    home = hostile_home(project / ".mergeflow")
    before = snapshot(home)
    assert run(*arguments) == 0
    assert snapshot(home) == before


def test_a_reference_into_a_home_that_is_not_believed_is_refused(
    project: Path, recipe: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_llama(hostile_home(project / ".mergeflow") / "zoo" / "base", base_weights())
    recipe.write_text(
        "merge_method: linear\nmodels: [{model: $MERGEFLOW_ZOO/base}, {model: base}]\n"
    )
    assert run("merge", str(recipe), "out") == 2
    assert "not in the list of your homes" in capfd.readouterr().err
    assert not (project / "out").exists()


@pytest.mark.parametrize("place", ["/", "/tmp", "~"])
def test_a_directory_that_is_no_home_is_never_closed(
    place: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path.home().chmod(0o755)
    path = Path(place).expanduser()
    before = stat.S_IMODE(path.stat().st_mode)
    monkeypatch.setenv("MERGEFLOW_HOME", str(path))
    with pytest.raises(HomeError):
        Home.discover()
    assert stat.S_IMODE(path.stat().st_mode) == before


def test_a_project_is_not_taken_for_its_home(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (project / ".mergeflow").mkdir()
    project.chmod(0o755)
    (project / "src").mkdir(mode=0o755)
    assert run("home", "trust", ".") == 2
    assert run(*mend_of(capfd.readouterr().err)) == 0
    monkeypatch.setenv("MERGEFLOW_HOME", str(project))
    with pytest.raises(HomeError, match="holds other things"):
        Home.discover()
    assert stat.S_IMODE(project.stat().st_mode) == 0o755


@pytest.mark.parametrize("what", ["file", "dangling link", "circle"])
def test_what_is_no_directory_is_told(
    what: str, project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    place = project / "home"
    if what == "file":
        place.write_text("")
    else:
        place.symlink_to(project / ("nowhere" if what == "dangling link" else "home"))
    monkeypatch.setenv("MERGEFLOW_HOME", str(place))
    assert run("env") == 2
    assert "what to do" in capfd.readouterr().err


def test_a_working_directory_that_is_gone_does_not_matter(project: Path) -> None:
    (project / "gone").mkdir()
    os.chdir(project / "gone")
    (project / "gone").rmdir()
    assert Home.discover().path == Path.home() / ".mergeflow"
    os.chdir(project)


def test_show_says_which_home_and_why(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hostile_home(project / ".mergeflow").chmod(0o755)
    assert run("home", "show", "--json") == 2
    shown = json.loads(capfd.readouterr().out)
    assert shown["path"] == str(project / ".mergeflow")
    assert not shown["believed"]
    assert not shown["in_list"]
    assert shown["mode"] == "0755"
    assert run("home", "trust", ".mergeflow") == 0
    capfd.readouterr()
    assert run("home", "show", "--json") == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["believed"]
    assert shown["in_list"]
    assert shown["mode"] == "0700"
    assert run("home", "list") == 0
    assert str(project / ".mergeflow") in capfd.readouterr().out
    assert run("home", "forget", ".mergeflow") == 0
    assert run("home", "forget", ".mergeflow") == 2
    assert run("home", "show") == 2


def _poisoned_memo(path: Path, project: Path) -> None:
    """It says of every input that its digest is one that the attacker chose."""
    from merge_core.files.digests import fingerprint

    with sqlite3.connect(path) as memo:
        memo.execute(
            "CREATE TABLE digests"
            " (path TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, sha256 TEXT NOT NULL)"
        )
        for file in project.glob("*/*"):
            if file.is_file():
                memo.execute(
                    "INSERT INTO digests VALUES (?, ?, ?)", (str(file), fingerprint(file), "f" * 64)
                )
    memo.close()


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="Linux alone tells")
@pytest.mark.parametrize("place", ["/proc/self", "/proc/self/new", "/sys", "/sys/fs/new/home"])
@pytest.mark.parametrize("command", [["home", "show"], ["env"], ["gc", "--yes"], ["home", "trust"]])
def test_a_file_system_of_the_kernel_is_no_place_for_a_home(
    command: list[str],
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its directories seem to be root's own, and what is written there orders the kernel."""
    monkeypatch.setenv("MERGEFLOW_HOME", place)
    trusting = command[-1] == "trust"
    status = run(*command, *([place] if trusting else []))
    out, said = capfd.readouterr()
    assert status == 2, said
    assert out == "" or "believed  no" in out
    first, mend = said.strip().splitlines()
    if trusting and "new" in place:
        assert "there is no home here to trust" in first
    else:
        assert first.startswith(f"error: {place}: a home cannot be kept here: this is the kernel's")
        assert mend.startswith("  what to do: name a directory on a disk")
