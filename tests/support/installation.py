"""mergeflow as somebody has it who installed its wheel: built, installed, outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_BUILT_FROM = (
    *("pyproject.toml", "README.md", "configs", "deployments"),
    *("mergeflow", "flows", "tasks", "merge_core"),
)


@dataclass(frozen=True)
class Installation:
    """A virtual environment that has mergeflow from its wheel, and all other packages from here."""

    directory: Path

    @property
    def python(self) -> str:
        return str(self.directory / "bin" / "python")

    @property
    def program(self) -> str:
        return str(self.directory / "bin" / "mergeflow")

    @property
    def packages(self) -> Path:
        """Where the packages are: site-packages."""
        return next(self.directory.glob("lib/python*/site-packages"))

    @property
    def files(self) -> Path:
        """The package that holds what the wheel ships besides modules."""
        return self.packages / "mergeflow"


def build_wheel(directory: Path, *, untracked: str | None = None) -> Path:
    """The wheel of this code, built without a network.

    Args:
        untracked: a file of the user's that lies in the checkout when it is built.
    """
    pytest.importorskip("setuptools", minversion="77", reason="what builds the wheel")
    pytest.importorskip("pip", reason="what installs it")
    source = directory / "source"
    source.mkdir(parents=True)
    for name in _BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name)  # with what Python and editors leave there
        else:
            shutil.copy(ROOT / name, source / name)
    if untracked:
        (source / untracked).write_text("PASSWORD=canary\n")
    alone = ["--no-build-isolation", "--no-deps", "--no-index"]
    pip(sys.executable, "wheel", *alone, "-w", str(directory), str(source))
    (wheel,) = directory.glob("mergeflow-*.whl")
    return wheel


def install(wheel: Path, directory: Path) -> Installation:
    """A new environment with the wheel in it, over the packages that are present here."""
    venv.create(directory, with_pip=False)
    installation = Installation(directory)
    # Before the others can be seen: pip would take the mergeflow that is among them for this one.
    _pip_install(installation, wheel)
    present = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (installation.packages / "others.pth").write_text("\n".join(present) + "\n")
    return installation


def install_another(installation: Installation, name: str, files: dict[str, str]) -> None:
    """Somebody else's distribution, in the same environment, by the same installer.

    Args:
        files: text by name.
    """
    information = f"{name.replace('-', '_')}-1.0.dist-info"
    metadata = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files = files | {f"{information}/{key}": text for key, text in metadata.items()}
    rows = "".join(f"{each},,\n" for each in [*files, f"{information}/RECORD"])
    wheel = installation.directory / f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for each, text in (files | {f"{information}/RECORD": rows}).items():
            archive.writestr(each, text)
    _pip_install(installation, wheel)


def uninstall(installation: Installation, name: str) -> None:
    """Take a distribution out again."""
    pip(installation.python, "uninstall", "--yes", name)


def plain_environment(**variables: str) -> dict[str, str]:
    """A user's environment, without what the tests themselves set."""
    ours = ("PREFECT_", "MLFLOW_", "MERGEFLOW_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, **variables}


def _pip_install(installation: Installation, wheel: Path) -> None:
    alone = ["--no-deps", "--no-index", "--no-compile"]
    pip(installation.python, "install", *alone, str(wheel))


def pip(python: str, command: str, *arguments: str) -> None:
    """Call pip for an interpreter, which need not have it."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, command, "--quiet", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stdout + done.stderr
