"""A configuration that is named and not there: what was probably meant is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.cli import program
from merge_core.errors import NoSuchFileError
from merge_core.files.near_files import nearest_file
from merge_core.files.strict_yaml import load_yaml
from tasks.processes.shipped_files import shipped

CONFIGS = shipped("configs")
NAMED = {
    "run": ("zoo-good.yaml", ["pipelines"]),
    "search": ("zoo-sweep.yaml", ["searches"]),
    "average": ("zoo-soup.yaml", ["averages", "recipes"]),
    "plan": ("zoo-ties.yaml", ["recipes"]),
    "diagnose": ("zoo-ties.yaml", ["recipes"]),
    "verify": ("configs/recipes/zoo-ties.yaml", ["recipes"]),
}


@pytest.mark.parametrize("command", NAMED)
@pytest.mark.usefixtures("home")
def test_a_shipped_file_is_named_by_its_path(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    named, rooms = NAMED[command]
    assert program.run([command, named]) == 2
    said = capfd.readouterr().err
    paths = [CONFIGS / room / Path(named).name for room in rooms]
    assert all(path.is_file() for path in paths)
    assert f"error: {named}: there is no such file\n" in said
    assert f"that of a copy: {' or '.join(map(str, paths))}\n" in said


@pytest.mark.parametrize("command", ["run", "search", "average", "plan", "merge"])
@pytest.mark.usefixtures("home")
def test_else_the_file_beside_it_that_has_nearly_its_name(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweep-2.yaml").write_text("")
    out = ("out",) if command == "merge" else ()
    assert program.run([command, "swep-2.yml", *out]) == 2
    assert "what to do: did you mean sweep-2.yaml?\n" in capfd.readouterr().err


def test_a_file_of_another_kind_a_hidden_one_and_a_directory_are_not_meant(tmp_path: Path) -> None:
    for name in ("sweep.py", ".sweep.yaml"):
        (tmp_path / name).write_text("")
    (tmp_path / "sweep.yml").mkdir()
    assert nearest_file(tmp_path / "sweep.yaml") is None
    assert nearest_file(tmp_path / "nowhere" / "sweep.yaml") is None
    with pytest.raises(NoSuchFileError) as refused:
        load_yaml(tmp_path / "sweep.yaml")
    assert refused.value.mend is None


def test_a_pattern_in_a_name_finds_nothing(
    home: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert program.run(["plan", "zoo-*.yaml"]) == 2
    assert "ships" not in capfd.readouterr().err
