"""Other distributions that have a `tasks` or a `flows` too: the first line says which one it is.

pip installs them, also over ours: it lets one distribution overwrite the files of another.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.installation import (
    Installation,
    install_another,
    plain_environment,
    uninstall,
)


def first_line(installation: Installation, directory: Path, **variables: str) -> str:
    """The first line that a user sees, of a command that is refused."""
    done = subprocess.run(
        [installation.program, "methods"],
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        env=plain_environment(MERGEFLOW_HOME=str(directory / "home"), **variables),
    )
    assert (done.returncode, done.stdout) == (1, "")
    first, mend = done.stderr.splitlines()
    assert mend.startswith("  what to do: ")
    return first


@pytest.mark.parametrize("file", ["tasks/__init__.py", "flows/__init__.py", "tasks.py"])
@pytest.mark.slow
def test_one_that_is_found_before_ours(
    installation: Installation, tmp_path: Path, file: str
) -> None:
    name, place = file.split("/")[0].removesuffix(".py"), tmp_path / "packages"
    (place / file).parent.mkdir(parents=True)
    (place / file).touch()
    information = place / "other_queue-2.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: other-queue\nVersion: 2.1\n"
    )
    (information / "RECORD").write_text(f"{file},,\n")
    said = first_line(installation, tmp_path, PYTHONPATH=os.pathsep.join([str(place)]))
    found = place / file.removesuffix("/__init__.py")
    assert said == (
        f"error: mergeflow's own package `{name}` is hidden by {str(found)!r},"
        " which the distribution 'other-queue' 2.1 installed"
    )


@pytest.mark.parametrize("name", ["tasks", "flows"])
@pytest.mark.slow
def test_one_that_was_installed_over_ours(
    changeable: Installation, tmp_path: Path, name: str
) -> None:
    file = f"{name}/__init__.py"
    install_another(changeable, "other-queue", {file: "print('not ours')\n"})
    said = first_line(changeable, tmp_path)
    assert said == (
        f"error: mergeflow's own package `{name}` was overwritten by the distribution 'other-queue'"
        f" 1.0: {str(changeable.packages / file)!r} is not what mergeflow installed"
    )
    uninstall(changeable, "other-queue")  # as advised; pip removes what it had overwritten
    assert first_line(changeable, tmp_path) == (
        f"error: mergeflow's own package `{name}` in {str(changeable.packages)!r} is incomplete"
    )


@pytest.mark.slow
def test_one_that_replaced_a_single_module(changeable: Installation, tmp_path: Path) -> None:
    """Modules beside ours do no harm, and what the user has edited is the user's."""
    (changeable.packages / "tasks" / "__init__.py").write_text("# mine\n")
    install_another(changeable, "first-queue", {"tasks/queue.py": "QUEUE = 1\n"})
    assert "--version" in help_of(changeable, tmp_path)
    install_another(changeable, "other-queue", {"flows/cli/options.py": "OPTIONS = 1\n"})
    said = first_line(changeable, tmp_path)
    assert said.startswith("error: mergeflow's own package `flows` was overwritten by the")
    assert "'other-queue' 1.0" in said


def help_of(installation: Installation, directory: Path) -> str:
    done = subprocess.run(
        [installation.program, "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=directory,
        env=plain_environment(),
    )
    return done.stdout
