"""The commands of an installed mergeflow, called where there is no checkout: from an empty
directory, from one with blanks in its name, and from one with `tasks.py`, `flows/` and `examples/`
of its own.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.model_zoo import Zoo
from tests.support.installation import Installation, plain_environment
from tests.support.outside import obeyed, put_hostile_files, write
from tests.support.stack import RunningStack, form

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
DIRECTORIES = ("empty", "blanks in its name", "modules")
LENIENT = {"max_regression": 1.0, "min_gain": -1.0, "min_documents": 3}


@dataclass
class User:
    """Somebody who has installed mergeflow, in a directory of theirs."""

    installation: Installation
    home: Path
    directory: Path
    """Where commands are called."""
    marker: Path
    """What the modules in that directory write to when they are imported."""

    @property
    def files(self) -> Path:
        """Where their recipes are."""
        return self.home.parent / "my recipes"

    def call(self, *arguments: str, program: str | None = None) -> str:
        """Call a command that has to end well; what it wrote."""
        done = subprocess.run(
            [program or self.installation.program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd=self.directory,
            env=plain_environment(MERGEFLOW_HOME=str(self.home), OMP_NUM_THREADS="1"),
        )
        assert done.returncode == 0, done.stdout
        assert obeyed(self.marker) == ""
        return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for the module: the example models are trained once."""
    place = tmp_path_factory.mktemp("user") / "with blanks"
    (place / "my recipes").mkdir(parents=True)
    return place


@pytest.fixture(scope="module", params=DIRECTORIES)
def user(request: pytest.FixtureRequest, installation: Installation, place: Path) -> Iterator[User]:
    directory, marker = place / request.param, place / "marker"
    directory.mkdir()
    if request.param == "modules":
        put_hostile_files(directory, marker)
        (directory / "configs").mkdir()
        (directory / "deployments").mkdir()
    before = sorted(directory.iterdir())
    yield User(installation, place / "home", directory, marker)
    assert sorted(directory.iterdir()) == before, "a command left something behind"


def test_demo(user: User) -> None:
    """It trains the example models at its first call, and its advice can be followed."""
    said = user.call("demo")
    assert "The good merge was promoted, the bad one fell back to its base" in said
    advice = said[said.index("What to try next:") :]
    assert str(user.installation.files / "configs" / "pipelines" / "zoo-good.yaml") in advice
    for command in ("lineage", "run", "check"):
        (line,) = [line for line in advice.splitlines() if f"mergeflow {command} " in line]
        shell = line.split("  # ")[0]
        user.call("-c", shell, program="/bin/sh")


def test_run_with_a_shipped_suite(user: User) -> None:
    models = [{"model": f"$MERGEFLOW_ZOO/{name}"} for name in ("code-expert", "prose-expert")]
    recipe = {"merge_method": "linear", "models": models, "parameters": {"weight": 0.5}}
    values = {
        "name": f"of {user.directory.name}".replace(" ", "-"),
        "recipe": recipe | {"base_model": "$MERGEFLOW_ZOO/base"},
        "evaluate": {"suite": "starter", "experts": False, "parallel": 2},
        "promote": LENIENT,
        "register": {"model": "installed"},
    }
    write(user.files / "pipeline.yaml", values)
    assert "Promoted" in user.call("run", str(user.files / "pipeline.yaml"))
    code = (
        "import mlflow; from merge_core.homes.home import Home;"
        "from tasks.registry.client import default_tracking_uri;"
        "mlflow.set_tracking_uri(default_tracking_uri(Home.discover()));"
        "model = mlflow.pyfunc.load_model('models:/installed@champion');"
        "print('said', model.predict(['def main'], params={'max_new_tokens': 2}))"
    )
    assert "said ['" in user.call("-P", "-c", code, program=user.installation.python)


def test_average(user: User) -> None:
    values = {
        "name": user.directory.name.replace(" ", "-"),
        "training": {"run": "$MERGEFLOW_ZOO/runs/prose", "marker": "trainer_state.json"},
        "choose": {"last": 2},
        "average": {"schedule": "uniform"},
        "evaluate": {"suite": "starter", "parallel": 2},
        "promote": LENIENT,
        "register": {"model": "average"},
    }
    write(user.files / "average.yaml", values)
    assert "Promoted" in user.call("average", str(user.files / "average.yaml"))


def test_up_and_a_run_of_its_worker(user: User) -> None:
    """The deployments are the shipped ones, and the worker imports the installed flows."""
    stack = RunningStack(user.home, user.directory, program=user.installation.program)
    stack.up()
    try:
        zoo = Zoo(user.home / "zoo")
        run = stack.start_run("merge/merge", form(zoo, suite="starter"))
        ended = stack.finish(run)
        assert ended["state"]["type"] == "COMPLETED", ended["state"]
        assert "merge/merge" in stack.output
        assert "MLflow" in user.call("status")
    finally:
        code, said = stack.interrupt(), stack.output
        (user.directory / "up.log").unlink()
    assert code == 0, said
    assert obeyed(user.marker) == ""
