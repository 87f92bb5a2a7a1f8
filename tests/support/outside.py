"""A user's machine from outside: an empty home, a terminal, a network that refuses and records."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from flows.model_zoo import Zoo
from tests.support.stack import PROGRAM
from tests.support.terminals import on_a_terminal

_MODULES = (
    *("tasks", "merge_core", "prefect", "yaml", "torch", "numpy", "mlflow", "lm_eval", "uvicorn"),
    *("pydantic", "multiprocessing", "pickle", "typing", "matplotlib", "sitecustomize"),
    *("usercustomize", "zoo_functions"),
)
_PACKAGES = ("flows", "examples", "transformers", "datasets")
_LENIENT = {"max_regression": 1.0, "min_gain": -1.0, "min_documents": 5}


@dataclass
class Outside:
    """A user who has just logged in: nothing of what the tests set is in the environment."""

    directory: Path
    """Where commands are called, with a recipe, a pipeline and a quick suite in it."""
    library: str
    record: Path
    home: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TERM": "xterm",
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            # Machine code that is there already; making it is no part of what is tested.
            "NUMBA_CACHE_DIR": str(Path.home() / ".cache"),
            "LD_PRELOAD": self.library,
            "REFUSED_NETWORK": str(self.record),
            **self.variables,
        }

    def call(
        self, *arguments: str, program: str = PROGRAM, seconds: float = 240
    ) -> tuple[int, str]:
        """Call a command of mergeflow at a terminal; its exit status and what it wrote."""
        command = [program, *arguments]
        return on_a_terminal(command, self.directory, self.environment, seconds)

    @property
    def refused(self) -> list[str]:
        """What was looked up or connected to, and refused."""
        return self.record.read_text().splitlines() if self.record.exists() else []


def lay_out(directory: Path, zoo: Zoo) -> None:
    """A recipe, a pipeline and an average of the example models, with a suite of one task."""
    (directory / "zoo").symlink_to(zoo.directory)
    shutil.copytree(zoo.suite, directory / "suite")
    suite = yaml.safe_load((directory / "suite" / "suite.yaml").read_text())
    suite["tasks"] = [task for task in suite["tasks"] if task["task"] == "zoo_prose_bpb"]
    (directory / "suite" / "suite.yaml").write_text(yaml.safe_dump(suite))
    models = [{"model": f"zoo/{name}", "parameters": {"weight": 1}} for name in NAMES]
    common = {"evaluate": {"suite": "suite", "experts": False, "parallel": 2}, "promote": _LENIENT}
    write(directory / "recipe.yaml", {"merge_method": "linear", "models": models})
    write(directory / "pipeline.yaml", {"name": "tiny", "recipe": "recipe.yaml"} | common)
    training = {"run": "zoo/runs/prose", "marker": "trainer_state.json"}
    average = {"name": "mean", "training": training, "choose": {"last": 2}}
    average |= {"average": {"schedule": "uniform"}, "register": {"model": "mean"}} | common
    write(directory / "average.yaml", average)


NAMES = ("base", "code-expert")


def write(path: Path, values: object) -> None:
    """A YAML file."""
    path.write_text(yaml.safe_dump(values))


def put_hostile_files(here: Path, marker: Path) -> None:
    """Modules that write to `marker` when they are imported."""
    for name in _MODULES:
        (here / f"{name}.py").write_text(_code(marker, name))
    for name in _PACKAGES:
        (here / name).mkdir()
        (here / name / "__init__.py").write_text(_code(marker, name))


def _code(marker: Path, name: str) -> str:
    noted = f"print({name!r}, sys.argv, file=file)"
    return f"import sys\nwith open({str(marker)!r}, 'a') as file: {noted}\n"


def obeyed(marker: Path) -> str:
    return marker.read_text() if marker.exists() else ""
