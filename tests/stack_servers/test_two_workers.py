"""`mergeflow up` on PostgreSQL and Redis with two workers; the tests follow each other as a user's
day would.

Not part of `make test`: `make stack-test`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
import redis
import yaml
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.fanout.work_pool import WorkPool
from flows.model_zoo import Zoo
from merge_core.records import SourceCheckpoint
from tests.stack_servers.conftest import write_stack_file
from tests.support.database_servers import PASSWORD, Servers
from tests.support.processes import is_alive, wait_until
from tests.support.scale_out_cases import (
    Killer,
    Observed,
    check_little_was_redone,
    run_merge,
    sums,
    write_zoo,
)
from tests.support.stack import RunningStack, form, merge_from_the_form, versions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WORKERS = {"local-1", "local-2"}


def test_up_says_where_everything_is_and_status_agrees(
    stack: RunningStack, servers: Servers
) -> None:
    assert f"PostgreSQL 127.0.0.1:{servers.postgresql_port}/prefect" in stack.output
    assert f"Redis 127.0.0.1:{servers.redis_port}/0; workers: 2" in stack.output
    status = json.loads(stack.call("status", "--json").stdout)
    assert status["healthy"]
    assert set(status["workers"]) == WORKERS
    assert "PostgreSQL" in status["records"]


def test_the_servers_listen_on_localhost_alone(stack: RunningStack) -> None:
    listening = {
        connection.laddr.ip
        for process in stack.processes()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_the_api_and_the_background_services_are_two_processes(stack: RunningStack) -> None:
    commands = [" ".join(process.cmdline()) for process in stack.processes()]
    assert sum("flows.servers.prefect_server" in command for command in commands) == 1
    assert sum("server services start" in command for command in commands) == 1


def test_a_merge_from_the_form_is_promoted_and_registered(
    stack: RunningStack, tiny_zoo: Zoo
) -> None:
    merge_from_the_form(stack, tiny_zoo)


def test_its_records_are_in_postgresql_and_in_no_file(
    stack: RunningStack, servers: Servers
) -> None:
    states = "SELECT count(*) FROM flow_run_state WHERE message LIKE 'Promoted: %'"
    assert servers.query("prefect", states) == [(1,)]
    aliases = (
        "SELECT v.name, a.alias FROM model_versions v JOIN registered_model_aliases a"
        " ON a.name = v.name AND a.version = v.version"
    )
    assert servers.query("mlflow", aliases) == [("zoo", "champion")]
    assert servers.query("mlflow", "SELECT count(*) FROM metrics")[0][0] > 0
    assert not list((stack.home / "prefect").rglob("*.db*"))
    assert not list((stack.home / "mlflow").rglob("*.db*"))


def test_its_events_went_through_redis(servers: Servers) -> None:
    with redis.Redis.from_url(servers.redis()) as client:
        assert client.type("events") == b"stream"
        groups = {
            each["name"].decode(): each["consumers"] for each in client.xinfo_groups("events")
        }
        assert {"event-persister", "task-run-recorder", "reactive-triggers"} <= set(groups)
        assert all(consumers > 0 for consumers in groups.values())
    recorded = "SELECT count(*) FROM events WHERE event = 'mergeflow.promoted'"
    assert wait_until(lambda: servers.query("prefect", recorded) == [(1,)], 30)


@pytest.fixture
def at_the_stack(stack: RunningStack) -> Iterator[None]:
    """Prefect's client of this process on the stack's server."""
    address = f"http://127.0.0.1:{stack.prefect_port}/api"
    with temporary_settings({PREFECT_API_URL: address, PREFECT_API_AUTH_STRING: stack.login}):
        yield


@pytest.mark.usefixtures("at_the_stack")
def test_both_workers_compute_a_merge_and_with_one_killed_the_bytes_are_the_same(
    stack: RunningStack, servers: Servers, tmp_path: Path
) -> None:
    zoo: dict[str, SourceCheckpoint] = write_zoo(tmp_path / "zoo")
    run_merge(zoo, tmp_path / "alone" / "out")
    shared = tmp_path / "shared"
    killed: list[int] = []

    def kill_worker_of(pid: int) -> None:
        (worker,) = [each for each in psutil.Process(pid).parents() if "worker" in each.cmdline()]
        killed.append(worker.pid)
        for process in [worker, *worker.children(recursive=True)]:
            process.kill()

    killer = Killer(shared, kill_worker_of)
    killer.start()
    observed = Observed(WorkPool("mergeflow"))
    run_merge(zoo, shared / "out", observed)
    assert killed
    assert sums(shared / "out") == sums(tmp_path / "alone" / "out")
    check_little_was_redone(observed, killer.killed_in)
    shares = (
        "SELECT DISTINCT r.labels->>'prefect.worker.name' FROM flow_run r JOIN flow f"
        " ON f.id = r.flow_id WHERE f.name = 'merge-shard-group'"
        " AND r.state_type IN ('COMPLETED', 'CRASHED')"
    )
    assert {name for (name,) in servers.query("prefect", shares)} == WORKERS


def test_the_killed_worker_is_started_again(stack: RunningStack) -> None:
    assert wait_until(lambda: "had ended and is started again" in stack.output, 20)
    assert "the worker local-" in stack.output
    workers = [each for each in stack.processes() if "worker" in each.cmdline()]
    assert len([each for each in workers if each.ppid() == stack.process.pid]) == 2


def test_a_pipeline_on_the_command_line_is_shared_out_to_the_workers(
    stack: RunningStack, servers: Servers, tiny_zoo: Zoo
) -> None:
    values = form(tiny_zoo)
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(tiny_zoo.base),
        "models": [
            {"model": str(model), "parameters": {"weight": 0.45}}
            for model in (tiny_zoo.code_expert, tiny_zoo.prose_expert)
        ],
    }
    pipeline = {
        "name": "shared-out",
        "recipe": recipe,
        "evaluate": {"suite": "suite", "device": "cpu"},
        "promote": values["promote"],
        "register": {"model": "zoo"},
        "execution": {
            "device": "cpu",
            "shard_size": "50KB",
            "scale_out": {"work_pool": "mergeflow"},
        },
    }
    (stack.directory / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))
    done = stack.call("run", "pipeline.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(versions(stack)) == 3
    runs = (
        "SELECT state_name, count(*) FROM flow_run WHERE name LIKE '% group % of %'"
        " AND created > (SELECT max(created) FROM flow_run WHERE name LIKE 'shared-out-%')"
        " GROUP BY state_name"
    )
    counted = dict(servers.query("prefect", runs))
    assert set(counted) == {"Completed"}, counted
    assert counted["Completed"] > 1


def test_another_up_on_the_same_database_is_refused(
    stack: RunningStack, servers: Servers, tmp_path: Path
) -> None:
    other = RunningStack(home=tmp_path / "other", directory=tmp_path, variables=stack.variables)
    write_stack_file(other.home, servers)
    refused = other.call("up")
    assert refused.returncode == 2
    assert "another `mergeflow up` uses this database" in refused.stderr
    assert PASSWORD not in refused.stderr


def test_one_database_for_both_programs_is_refused_whatever_it_is_called(
    servers: Servers, stack: RunningStack, tmp_path: Path
) -> None:
    servers.create_database("both")
    other = RunningStack(home=tmp_path / "other", directory=tmp_path, variables=stack.variables)
    write_stack_file(other.home, servers, databases=("both", "b%6Fth"))
    refused = other.call("up")
    assert refused.returncode == 2
    assert "are the same database" in refused.stderr


def test_a_server_can_be_set_up_again_by_the_command_that_containers_use(
    stack: RunningStack,
) -> None:
    api = {"PREFECT_API_URL": f"http://127.0.0.1:{stack.prefect_port}/api"}
    before = stack.prefect("/automations/filter", {})
    done = subprocess.run(
        [sys.executable, "-m", "flows.stack.setup"],
        env={**stack.environment, **stack.logged_in, **api},
        cwd=stack.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "merge/merge" in done.stdout
    assert len(stack.prefect("/automations/filter", {})) == len(before) > 0


def test_the_password_is_in_no_command_line_log_record_or_answer(
    stack: RunningStack, servers: Servers
) -> None:
    secrets = (PASSWORD, quote(PASSWORD, safe=""))
    said = [" ".join(process.cmdline()) for process in stack.processes()]
    said += [path.read_text() for path in (stack.home / "logs").iterdir()]
    said += [path.read_text() for path in (stack.home / "stack").iterdir()]
    said += [stack.output, stack.call("env").stdout, stack.call("status", "--json").stdout]
    settings = json.dumps(stack.prefect("/admin/settings"))
    assert "prefect_redis.messaging" in settings
    found = [text for text in (*said, settings) for secret in secrets if secret in text]
    assert found == []


def test_runs_are_not_given_the_servers_settings(stack: RunningStack) -> None:
    for worker in [each for each in stack.processes() if "worker" in each.cmdline()]:
        held = [name for name, value in worker.environ().items() if quote(PASSWORD, "") in value]
        assert held == []


def test_ctrl_c_leaves_no_process_and_no_embedded_database_takes_over(
    stack: RunningStack,
) -> None:
    family = stack.processes()
    assert len(family) >= 7
    assert stack.interrupt() == 0
    assert [each.pid for each in family if is_alive(each.pid)] == []
    assert stack.processes() == []
    asked = stack.call("lineage", "models:/zoo@champion")
    assert asked.returncode == 2
    assert "start `mergeflow up`" in asked.stderr


def test_after_the_next_up_everything_is_there_again(stack: RunningStack, servers: Servers) -> None:
    migrated = "SELECT version_num FROM alembic_version"
    before = servers.query("prefect", migrated)
    stack.up()
    assert servers.query("prefect", migrated) == before
    assert len(versions(stack)) == 3
    asked = stack.call("lineage", "models:/zoo@champion")
    assert asked.returncode == 0, asked.stderr
    assert "zoo" in asked.stdout
    assert stack.interrupt() == 0


def test_without_redis_the_server_is_one_process(stack: RunningStack, servers: Servers) -> None:
    write_stack_file(stack.home, servers, redis=False)
    stack.up()
    assert "Redis" not in stack.output
    assert "workers: 1" in stack.output
    commands = [" ".join(process.cmdline()) for process in stack.processes()]
    assert not any("server services start" in command for command in commands)
    assert len(versions(stack)) == 3
    assert stack.interrupt() == 0
    assert stack.processes() == []


def test_a_wrong_password_is_told_before_anything_is_started(stack: RunningStack) -> None:
    os.environ.pop("PGPASSWORD", None)
    wrong = RunningStack(stack.home, stack.directory, variables={"SECRET": "wrong"})
    refused = wrong.call("up")
    assert refused.returncode == 1
    assert "password authentication failed" in refused.stderr
    assert "starting" not in refused.stderr
