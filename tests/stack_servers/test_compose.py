"""The compose file for those who have Docker: Compose's own checks where they can be had, and its
commands as plain processes of this machine, with the containers' names replaced by addresses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
import redis
import yaml

from flows.model_zoo import Zoo
from flows.stack.deployments import DIRECTORY
from tests.support.database_servers import PASSWORD, Servers
from tests.support.processes import wait_until
from tests.support.stack import RunningStack, free_port, lay_out, merge_from_the_form

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FILE = DIRECTORY / "compose.yaml"
PROGRAMS = Path(sys.executable).parent
SERVERS = ("prefect", "prefect-services", "mlflow")
WORKERS = ("worker-1", "worker-2")
SERVERS_PASSWORD = "password-of-both-servers"


def test_it_fits_the_schema_of_compose() -> None:
    checker = PROGRAMS / "check-jsonschema"
    if not checker.exists():
        pytest.skip("no check-jsonschema: pip install check-jsonschema")
    command = [checker, "--builtin-schema", "vendor.compose-spec", FILE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_compose_itself_reads_it(tmp_path: Path) -> None:
    compose = _compose()
    if compose is None:
        pytest.skip("neither `docker compose` nor docker-compose")
    filled = "POSTGRES_PASSWORD=a\nREDIS_PASSWORD=b\nMERGEFLOW_PASSWORD=c\nMODELS=/models\n"
    (tmp_path / "env").write_text(filled)
    read = [*compose, "--env-file", tmp_path / "env", "-f", FILE, "config"]
    done = subprocess.run(read, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(yaml.safe_load(done.stdout)["services"]) == 10
    unset = subprocess.run([*compose, "-f", FILE, "config"], capture_output=True, check=False)
    assert unset.returncode != 0


def _compose() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            asked = subprocess.run([*command, "version"], capture_output=True, check=False)
            if asked.returncode == 0:
                return command
    return None


@pytest.fixture(scope="module")
def composed(
    tmp_path_factory: pytest.TempPathFactory, servers: Servers, tiny_zoo: Zoo
) -> Iterator[RunningStack]:
    """Every process of the file but the two databases, in its order."""
    servers.create_database("compose_prefect")
    servers.create_database("compose_mlflow")
    directory = tmp_path_factory.mktemp("composed")
    lay_out(directory, tiny_zoo)
    stack = RunningStack(
        home=directory / "data",
        directory=directory,
        variables={"PREFECT_API_AUTH_STRING": f"mergeflow:{SERVERS_PASSWORD}"},
    )
    stack.home.mkdir()
    password = quote(PASSWORD, safe="")
    names = {
        "${POSTGRES_PASSWORD:?set it in deployments/.env}": password,
        "${REDIS_PASSWORD:?set it in deployments/.env}": password,
        "${MERGEFLOW_PASSWORD:?set it in deployments/.env}": SERVERS_PASSWORD,
        "@postgres:5432/": f"@127.0.0.1:{servers.postgresql_port}/compose_",
        "@redis:6379/0": f"@127.0.0.1:{servers.redis_port}/1",
        "http://prefect:4200": f"http://127.0.0.1:{stack.prefect_port}",
        "http://mlflow:5000": f"http://127.0.0.1:{stack.mlflow_port}",
        "127.0.0.1:4200": f"127.0.0.1:{stack.prefect_port}",
        "127.0.0.1:5000": f"127.0.0.1:{stack.mlflow_port}",
        "0.0.0.0:4200": f"127.0.0.1:{stack.prefect_port}",
        "0.0.0.0:5000": f"127.0.0.1:{stack.mlflow_port}",
        "/data": str(stack.home),
        "/models": str(directory),
    }
    text = json.dumps(yaml.safe_load(FILE.read_text())["services"])
    for name, here in names.items():
        text = text.replace(name, here)
    services = json.loads(text)
    with ExitStack() as running:
        _run(services["prefect-migrate"], stack).check_returncode()
        for name in SERVERS:
            running.enter_context(_started(name, services[name], stack))
        for name in ("prefect", "mlflow"):
            _, *probe = services[name]["healthcheck"]["test"]
            assert wait_until(partial(_succeeds, {"command": probe}, stack), 120), name
        _run(services["setup"], stack).check_returncode()
        for name in WORKERS:
            running.enter_context(_started(name, services[name], stack))
        yield stack


def _run(service: dict[str, Any], stack: RunningStack) -> subprocess.CompletedProcess[str]:
    """A service that ends by itself."""
    return subprocess.run(
        service["command"],
        env=_environment(service, stack),
        cwd=stack.directory,
        capture_output=True,
        text=True,
        check=False,
    )


def _succeeds(service: dict[str, Any], stack: RunningStack) -> bool:
    return _run(service, stack).returncode == 0


@contextmanager
def _started(name: str, service: dict[str, Any], stack: RunningStack) -> Iterator[None]:
    """A service that runs until the end, when nothing of it is left."""
    with (stack.directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            service["command"],
            env=_environment(service, stack),
            cwd=stack.directory,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
        assert process.poll() is None, (stack.directory / f"{name}.log").read_text()
    finally:
        # As Docker does it; a worker of Prefect 3.8 now and then does not end when it is asked to.
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _environment(service: dict[str, Any], stack: RunningStack) -> dict[str, str]:
    """What the image and the service set."""
    image = (DIRECTORY / "Dockerfile").read_text()
    home = re.findall(r"(\w+)=/data(\S*)", image)
    return {
        **stack.environment,
        **{name: f"{stack.home}{below}" for name, below in home},
        **service.get("environment", {}),
        "PATH": f"{PROGRAMS}:{stack.environment['PATH']}",
    }


def test_a_merge_runs_through_its_processes(composed: RunningStack, tiny_zoo: Zoo) -> None:
    merge_from_the_form(composed, tiny_zoo)


def test_what_it_recorded_is_in_postgresql(composed: RunningStack, servers: Servers) -> None:
    promoted = "SELECT count(*) FROM flow_run_state WHERE message LIKE 'Promoted: %'"
    assert servers.query("compose_prefect", promoted) == [(1,)]
    registered = "SELECT count(*) FROM model_versions WHERE name = 'zoo'"
    assert servers.query("compose_mlflow", registered) == [(2,)]
    assert not list(composed.home.rglob("*.db"))


def test_the_database_of_mlflow_is_made_once(composed: RunningStack, servers: Servers) -> None:
    service = _service("create-mlflow-database", {"mlflow": "made_by_compose"})
    service["environment"] |= {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(servers.postgresql_port),
        "PGUSER": "postgres",  # in the container mergeflow is the superuser
        "PGDATABASE": "postgres",
        "PGPASSWORD": PASSWORD,
    }
    for _ in range(2):
        done = _run(service, composed)
        assert done.returncode == 0, done.stderr
    named = "SELECT count(*) FROM pg_database WHERE datname = 'made_by_compose'"
    assert servers.query("prefect", named) == [(1,)]


def test_redis_wants_the_password_and_shows_it_in_no_argument(composed: RunningStack) -> None:
    port = free_port()
    (composed.directory / "redis").mkdir()
    here = {"redis-server -": f"redis-server - --bind 127.0.0.1 --port {port}"}
    service = _service("redis", here | {"/data": str(composed.directory / "redis")})
    service["environment"] = {"REDIS_PASSWORD": "hunter2"}
    with _started("redis", service, composed):
        client = redis.Redis(port=port, password="hunter2")
        assert wait_until(lambda: _pings(client), 20)
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port).ping()
        said = [" ".join(process.cmdline()) for process in psutil.process_iter()]
        assert any(f"127.0.0.1:{port}" in text for text in said)
        assert not any("hunter2" in text for text in said)
        _, probe = service["healthcheck"]["test"]
        probe = probe.replace("redis-cli", f"redis-cli -p {port}")
        check = {"command": ["sh", "-c", probe], "environment": service["environment"]}
        assert _succeeds(check, composed)


def _service(name: str, replaced: dict[str, str]) -> dict[str, Any]:
    """One service, as a shell of its container would get it."""
    text = json.dumps(yaml.safe_load(FILE.read_text())["services"][name]).replace("$$", "$")
    for what, by in replaced.items():
        text = text.replace(what, by)
    service: dict[str, Any] = json.loads(text)
    return service


def _pings(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
