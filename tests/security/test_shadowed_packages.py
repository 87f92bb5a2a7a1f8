"""Nothing in the directory where a command is called is imported or obeyed: modules that are called
as ours or as a library's, Prefect's settings files, an empty entry of PYTHONPATH.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mergeflow.own_packages import hidden
from tasks.processes.own_python import for_code_of_others, import_path
from tests.support.outside import Outside, obeyed
from tests.support.stack import PROGRAM


def test_the_marker_sees_what_python_itself_would_import(outside: Outside, marker: Path) -> None:
    command = ["-m", "tasks"], ["-c", "import prefect"]
    for arguments in command:
        outside.call(*arguments, program=sys.executable)
    seen = obeyed(marker)
    assert "tasks" in seen
    assert "prefect" in seen


@pytest.mark.slow
def test_a_pipeline_runs_beside_hostile_modules(outside: Outside, marker: Path) -> None:
    status, said = outside.call("run", "pipeline.yaml")
    assert status == 0, said
    assert "Promoted" in said
    assert obeyed(marker) == ""
    assert outside.refused == []


def test_the_processes_of_a_merge_import_nothing_there(outside: Outside, marker: Path) -> None:
    status, said = outside.call("merge", "recipe.yaml", "merged", "--processes", "2")
    assert status == 0, said
    assert obeyed(marker) == ""


@pytest.mark.slow
def test_an_empty_entry_of_pythonpath_names_no_directory(outside: Outside, marker: Path) -> None:
    """The first process has it on its path before any of our code runs; no other has."""
    for name in ("tasks", "merge_core", "typing", "sitecustomize", "usercustomize", "yaml"):
        (outside.directory / f"{name}.py").unlink()
    for name in ("numpy", "torch", "pydantic", "pickle", "multiprocessing"):
        (outside.directory / f"{name}.py").unlink()
    (outside.directory / "flows" / "__init__.py").unlink()
    (outside.directory / "flows").rmdir()
    outside.variables["PYTHONPATH"] = os.pathsep
    status, said = outside.call("evaluate", "zoo/base", "suite")
    assert status == 0, said
    assert obeyed(marker) == ""


def test_an_import_path_has_no_empty_and_no_relative_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = os.pathsep.join(["", "lib", "", "/elsewhere", ""])
    entries = import_path({"PYTHONPATH": given}).split(os.pathsep)
    assert entries[-2:] == [str(tmp_path / "lib"), "/elsewhere"]
    assert all(Path(entry).is_absolute() for entry in entries)
    assert str(tmp_path) not in entries


def test_a_users_own_programs_do_not_inherit_our_switch() -> None:
    assert "PYTHONSAFEPATH" not in for_code_of_others({"PYTHONSAFEPATH": "mergeflow"})
    assert for_code_of_others({"PYTHONSAFEPATH": "1"}) == {"PYTHONSAFEPATH": "1"}


@pytest.mark.slow
def test_functions_beside_a_suites_task_are_found(outside: Outside, marker: Path) -> None:
    """A suite is code that the user chose; what it brings along is imported from beside it."""
    (task,) = (outside.directory / "suite" / "tasks").glob("*prose_bpb.yaml")
    helper = (
        "import pathlib, subprocess, sys\n"
        "beside = pathlib.Path(__file__).parent\n"
        "told = subprocess.run([sys.executable, beside / 'other.py'], capture_output=True)\n"
        "assert told.stdout.strip() == b'found', told\n"
        "def target(document):\n    return document['text']\n"
    )
    (task.parent / "zoo_functions.py").write_text(helper)
    (task.parent / "other.py").write_text("import sibling\nprint(sibling.WORD)\n")
    (task.parent / "sibling.py").write_text("WORD = 'found'\n")
    text = task.read_text()
    assert "doc_to_target:" in text
    lines = [line for line in text.splitlines() if not line.startswith("doc_to_target:")]
    task.write_text("\n".join([*lines, "doc_to_target: !function zoo_functions.target", ""]))
    status, said = outside.call("evaluate", "zoo/base", "suite")
    assert status == 0, said
    assert obeyed(marker) == ""


@pytest.mark.parametrize("name", ["tasks", "flows", "merge_core"])
def test_a_package_that_hides_ours_is_the_first_thing_said(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    ended = subprocess.run(
        [PROGRAM, "methods"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    first, mend = ended.stderr.splitlines()
    assert first == f"error: mergeflow's own package `{name}` is hidden by '{tmp_path / name}'"
    assert mend.startswith("  what to do: take that directory")
    assert ended.stdout == ""


def test_our_own_packages_are_not_taken_for_foreign() -> None:
    assert [hidden(name) for name in ("flows", "tasks", "merge_core")] == [None] * 3
    assert hidden("json") is not None
