"""The wheel holds all that a command needs, under names of ours, and nothing of its user's."""

from __future__ import annotations

import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

from tasks.processes.shipped_files import shipped
from tests.support.installation import ROOT, Installation, plain_environment

OURS = ("mergeflow", "flows", "tasks", "merge_core")


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def below(*directories: str, pattern: str = "*") -> set[str]:
    """Files of this checkout."""
    found = [path for name in directories for path in (ROOT / name).rglob(pattern)]
    return {
        path.relative_to(ROOT).as_posix()
        for path in found
        if path.is_file()
        and "__pycache__" not in path.parts
        and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    }


def test_every_module_and_every_configuration_is_in_it(names: set[str]) -> None:
    assert below(*OURS, pattern="*.py") <= names
    assert {f"mergeflow/{name}" for name in below("configs")} <= names
    assert below("flows/servers/sign_in") <= names
    assert "merge_core/py.typed" in names
    for_docker = {"deployments/compose.yaml"}
    read_by_us = below("deployments", pattern="*.yaml") - for_docker
    assert {f"mergeflow/{name}" for name in read_by_us} <= names


def test_every_package_is_listed_in_pyproject() -> None:
    """A new directory with modules has to be added to `tool.setuptools.packages`."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    modules = below(*OURS, pattern="*.py")
    found = {Path(name).parent.as_posix().replace("/", ".") for name in modules}
    assert set(settings["packages"]) - set(settings["package-dir"]) == found


def test_nothing_is_installed_under_a_name_that_is_not_ours(names: set[str]) -> None:
    top = {name.split("/")[0] for name in names}
    assert top - {name for name in top if name.endswith(".dist-info")} == set(OURS)
    assert not [name for name in names if "__pycache__" in name]


def test_what_a_user_keeps_beside_the_deployments_stays_there(names: set[str]) -> None:
    assert not [name for name in names if Path(name).name.startswith(".")]


def test_a_checkout_finds_its_own_files() -> None:
    assert shipped("configs") == ROOT / "configs"
    assert shipped("deployments") == ROOT / "deployments"


def test_an_installation_finds_what_came_with_it(
    installation: Installation, tmp_path: Path
) -> None:
    """Not what happens to be named alike in the directory that all packages share."""
    code = (
        "import flows.cli.demo, flows.stack.deployments, tasks.evaluation.suite;"
        "from tasks.registry.environment import code_commit;"
        "print(flows.cli.demo.__file__, flows.stack.deployments.DIRECTORY, sep=chr(10));"
        "print(tasks.evaluation.suite.SHIPPED);"
        "print(len(flows.stack.deployments.read_deployments()), code_commit())"
    )
    said = ask(installation, tmp_path, "-c", code).stdout.splitlines()
    assert said[0] == str(installation.packages / "flows" / "cli" / "demo.py")
    assert said[1] == str(installation.files / "deployments")
    assert said[2] == str(installation.files / "configs" / "suites")
    assert said[3].endswith(" None")
    assert int(said[3].split()[0]) >= 3


def test_an_installed_suite_has_the_digest_of_the_checkouts(
    installation: Installation, tmp_path: Path
) -> None:
    """So that what was evaluated with one is found in the cache by the other."""
    from tasks.evaluation.suite import load_suite, suite_digest

    code = "from tasks.evaluation.suite import *; print(suite_digest(load_suite('starter')))"
    said = ask(installation, tmp_path, "-c", code).stdout.strip()
    assert said == suite_digest(load_suite("starter"))


def test_the_help_names_a_pipeline_that_is_there(
    installation: Installation, tmp_path: Path
) -> None:
    said = ask(installation, tmp_path, installation.program, "run", "--help").stdout
    shown = "".join(line.strip() for line in said[said.index("Example:") :].splitlines())
    assert str(installation.files / "configs" / "pipelines" / "zoo-good.yaml") in shown


def ask(
    installation: Installation, directory: Path, *command: str
) -> subprocess.CompletedProcess[str]:
    """What a program of the installation says; Python itself, unless another is named."""
    program = [] if command[0] == installation.program else [installation.python, "-P"]
    done = subprocess.run(
        [*program, *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        env=plain_environment(MERGEFLOW_HOME=str(directory / "home")),
    )
    assert done.returncode == 0, done.stderr
    return done
