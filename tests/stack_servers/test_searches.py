"""Searches in a PostgreSQL of their own: killed and gone on with, and held by one at a time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from flows.cli import program
from flows.model_zoo import Zoo
from flows.stack.config import StackConfig
from flows.stack.databases import only_one_on
from merge_core.errors import MergeflowError, StepError
from merge_core.homes.home import Home
from tasks.search.postgresql import alone_in, read_search_database
from tasks.search.sampling import Study, importances, kept_searches
from tasks.search.space import Space
from tasks.search.storage import database
from tasks.search.trial import Result, Trial
from tests.flows.test_search import search_file
from tests.support.database_servers import PASSWORD, Servers
from tests.support.processes import wait_until
from tests.support.stack import RunningStack

pytestmark = pytest.mark.slow

SPACE = Space.model_validate(
    {
        "knobs": {"a": {"from": 0.15, "to": 0.95, "step": 0.1}, "b": {"from": 0.0, "to": 1.0}},
        "methods": ["linear", {"ties": {"density": {"from": 0.1, "to": 0.9}}}],
    }
)
MOST = 14


@pytest.fixture
def password_file(
    servers_of_searches: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """What libpq reads, as `~/.pgpass`."""
    written = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
    file = tmp_path / "pgpass"
    file.write_text(f"127.0.0.1:{servers_of_searches.postgresql_port}:*:mergeflow:{written}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    return file


@pytest.fixture
def servers_of_searches(postgresql: Servers, request: pytest.FixtureRequest) -> Servers:
    """With three empty databases, named after the test."""
    for program_name in ("prefect", "mlflow", "search"):
        postgresql.create_database(f"{program_name}-{request.node.name}")
    return postgresql


def stack_file(home: Home, servers: Servers, test: str, **others: str) -> None:
    """Without a password: it is in the file that libpq reads."""
    host = f"postgresql://mergeflow@127.0.0.1:{servers.postgresql_port}"
    names = {
        f"{name}_database": f"{host}/{name}-{test}" for name in ("prefect", "mlflow", "search")
    }
    home.path.mkdir(exist_ok=True)
    lines = [f"{key}: {value}\n" for key, value in {**names, **others}.items()]
    home.stack_file.write_text("".join(lines))


def searched(home: Home, most: int, address: str | None) -> list[Trial]:
    """Search on until there are so many trials."""
    study = Study(home, "s", "d" * 64, {}, space=SPACE, sampler="tpe", seed=3, address=address)
    while asked := study.next(most):
        near = abs(float(asked.values["a"]) - 0.3) + float(asked.values["b"])
        study.tell(asked, Result(outcome="whole", recipe=str(asked.number), objective=-near))
    return study.trials()


def killed(home: Home, after: int, address: str | None) -> None:
    """Search on in a process that is killed with a trial begun, and as many finished."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException), alone_in(address, "d" * 64):
            searched(home, after, address)
            study = Study(
                home, "s", "d" * 64, {}, space=SPACE, sampler="tpe", seed=3, address=address
            )
            if study.next(after + 1):
                os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.usefixtures("password_file")
def test_a_search_that_was_killed_goes_on_from_another_home(
    servers_of_searches: Servers,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    whole = searched(Home(tmp_path / "sqlite"), MOST, None)
    homes = [Home(tmp_path / name) for name in ("first", "second")]
    for home in homes:
        stack_file(home, servers_of_searches, request.node.name)
    address = read_search_database(homes[0])
    assert address is not None
    assert PASSWORD not in address
    killed(homes[0], 5, address)
    with alone_in(read_search_database(homes[1]), "d" * 64):  # the dead one holds it no more
        assert searched(homes[1], MOST, read_search_database(homes[1])) == whole
    assert not any(database(home).exists() for home in homes)
    [kept] = kept_searches(homes[0], address)
    assert kept.trials == whole
    assert importances(homes[1], kept.id, address)
    statement = "SELECT count(*) FROM trials WHERE state = 'COMPLETE'"
    assert servers_of_searches.query(f"search-{request.node.name}", statement) == [(MOST,)]
    monkeypatch.setenv("MERGEFLOW_HOME", str(homes[0].path))
    assert program.run(["search", "show", "s"]) == 0
    assert f"best of {MOST} candidates" in capfd.readouterr().out


@pytest.mark.usefixtures("password_file")
def test_a_search_that_was_begun_in_the_home_goes_on_there(
    servers_of_searches: Servers, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    home = Home(tmp_path / "home")
    whole = searched(Home(tmp_path / "other"), MOST, None)
    killed(home, 5, None)
    stack_file(home, servers_of_searches, request.node.name)
    address = read_search_database(home)
    assert searched(home, MOST, address) == whole
    assert [len(each.trials) for each in kept_searches(home, address)] == [MOST]
    assert importances(home, kept_searches(home)[0].id, address)


@pytest.mark.usefixtures("password_file")
def test_two_homes_take_turns_and_the_dead_hold_nothing(
    servers_of_searches: Servers, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    home = Home(tmp_path / "home")
    stack_file(home, servers_of_searches, request.node.name)
    address = read_search_database(home)
    with alone_in(address, "d" * 64):
        with pytest.raises(StepError, match="another home") as told, alone_in(address, "d" * 64):
            raise AssertionError("two at once")
        assert PASSWORD not in str(told.value)
        with alone_in(address, "e" * 64):
            pass
        servers_of_searches.query(
            f"search-{request.node.name}",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        with alone_in(address, "d" * 64):
            pass


def test_what_postgresql_refuses_is_said_without_the_password(
    servers_of_searches: Servers,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    home = Home(tmp_path / "home")
    wrong = f"postgresql://mergeflow:hunter2@127.0.0.1:{servers_of_searches.postgresql_port}/x"
    stack_file(home, servers_of_searches, request.node.name, search_database=wrong)
    home.stack_file.chmod(0o600)
    home.path.chmod(0o700)
    monkeypatch.setenv("MERGEFLOW_HOME", str(home.path))
    assert program.run(["search", "show", "s"]) == 1
    said = capfd.readouterr().err
    assert "PostgreSQL says:" in said
    assert "password authentication failed" in said
    assert "search_database in stack.yaml" in said
    assert "hunter2" not in said


def test_a_database_for_two_programs_is_refused_whatever_it_is_called(
    servers_of_searches: Servers, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("prefect_redis", reason="pip install -e '.[scale-out]'")
    name = request.node.name
    prefect, mlflow = (
        servers_of_searches.database(f"{each}-{name}") for each in ("prefect", "mlflow")
    )
    with only_one_on(
        StackConfig(
            prefect_database=prefect,
            mlflow_database=mlflow,
            search_database=servers_of_searches.database(f"search-{name}"),
        )
    ):
        pass
    for key, other in (("prefect", prefect), ("mlflow", mlflow)):
        config = StackConfig(
            prefect_database=prefect,
            mlflow_database=mlflow,
            search_database=other.replace(f"/{key}-", f"/{key}%2D"),
        )
        same = f"{key}_database and search_database are the same database"
        with pytest.raises(MergeflowError, match=same) as told, only_one_on(config):
            raise AssertionError("two programs in one database")
        assert PASSWORD not in str(told.value)


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("password_file")
def test_a_search_beside_a_stack_is_killed_and_goes_on_there(
    servers_of_searches: Servers, tmp_path: Path, tiny_zoo: Zoo, request: pytest.FixtureRequest
) -> None:
    """By the command; then by the form, in a worker."""
    pytest.importorskip("prefect_redis", reason="pip install -e '.[scale-out]'")
    name, home = request.node.name, tmp_path / "home"
    others = {
        f"{each}_database": servers_of_searches.database(f"{each}-{name}", "${SECRET}")
        for each in ("prefect", "mlflow")
    }
    stack_file(Home(home), servers_of_searches, name, **others)
    file = search_file(tmp_path, tiny_zoo, budget={"trials": 8})
    stack = RunningStack(home=home, directory=tmp_path, variables={"SECRET": PASSWORD})
    finished = "SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'FAIL')"

    def trials() -> int:
        tables = "SELECT count(*) FROM pg_tables WHERE tablename = 'trials'"
        there = servers_of_searches.query(f"search-{name}", tables) == [(1,)]
        return int(servers_of_searches.query(f"search-{name}", finished)[0][0]) if there else 0

    stack.up()
    try:
        assert f"/search-{name}" in stack.output
        with subprocess.Popen(
            [stack.program, "search", str(file)], env=stack.environment, cwd=tmp_path
        ) as process:
            assert wait_until(lambda: trials() >= 2 or process.poll() is not None, 300)
            process.kill()
        assert 2 <= trials() < 8
        again = stack.call("search", str(file))
        assert again.returncode in {0, 3}, again.stdout + again.stderr
        assert trials() == 8
        assert "trials of this search are known already" in again.stdout
        shown = stack.call("search", "show", "tiny", "--json").stdout
        assert len(json.loads(shown)["trials"]) == 8
        assert not (home / "search.db").exists()
        form = {"name": "of-the-form", "base": str(tiny_zoo.base), "suite": str(tiny_zoo.suite)}
        models = [
            {"model": str(tiny_zoo.directory / f"{each}-expert")} for each in ("code", "prose")
        ]
        values = {**form, "models": models, "low": 0.2, "high": 0.4, "registered_model": "tiny"}
        run = stack.start_run("search/search", values)
        assert stack.finish(run)["state"]["type"] == "COMPLETED", stack.log(run)
        assert trials() == 8 + 3
        said = [stack.output, again.stdout + again.stderr, shown, json.dumps(stack.log(run))]
        said += [path.read_text() for path in (home / "logs").iterdir()]
        secrets = (PASSWORD, quote(PASSWORD, safe=""))
        assert not [text for text in said for secret in secrets if secret in text]
    finally:
        stack.interrupt()
    assert stack.processes() == []
