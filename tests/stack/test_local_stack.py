"""`mergeflow up` with real servers: one home; the tests follow each other as a user's day would.

Not part of `make test`: `make stack`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest

from flows.model_zoo import Zoo
from tests.support.processes import is_alive, wait_until
from tests.support.stack import (
    LENIENT,
    RunningStack,
    ending,
    form,
    free_port,
    merge_from_the_form,
    switches,
    versions,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SCHEDULE = "merge-scheduled/nightly"


def test_up_says_where_everything_is_and_status_agrees(stack: RunningStack) -> None:
    assert f"http://127.0.0.1:{stack.prefect_port}" in stack.output
    assert f"http://127.0.0.1:{stack.mlflow_port}" in stack.output
    status = stack.call("status")
    assert status.returncode == 0, status.stdout + status.stderr
    assert status.stdout.count("healthy") == 3
    assert "not healthy" not in status.stdout


def test_the_servers_listen_on_localhost_alone(stack: RunningStack) -> None:
    listening = {
        connection.laddr.ip
        for process in stack.processes()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_a_second_up_on_the_same_home_says_where_the_first_is(stack: RunningStack) -> None:
    second = stack.call("up")
    assert second.returncode == 2
    assert f"http://127.0.0.1:{stack.prefect_port}" in second.stderr


def test_a_merge_from_the_form_is_promoted_and_registered(
    stack: RunningStack, tiny_zoo: Zoo
) -> None:
    merge_from_the_form(stack, tiny_zoo)


def test_all_that_servers_worker_and_run_keep_is_their_users_alone(stack: RunningStack) -> None:
    kept = [stack.home, *stack.home.rglob("*")]
    assert [path for path in kept if path.stat().st_mode & 0o077] == []


WEBHOOK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
webhook = CustomWebhookNotificationBlock(
    name="test", url=sys.argv[1], json_data={"subject": "{{subject}}", "body": "{{body}}"}
)
webhook.save("mergeflow")
"""


@pytest.fixture(scope="module")
def notifications() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The address of a webhook of our own, and what was sent to it."""
    received: list[dict[str, str]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            received.append(json.loads(self.rfile.read(length)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", received
        server.shutdown()


def test_a_schedule_is_switched_on(stack: RunningStack) -> None:
    assert stack.call("schedule", SCHEDULE, "on").returncode == 0
    assert switches(stack)[SCHEDULE]


def test_a_notification_block_of_the_user_can_be_made(
    stack: RunningStack, notifications: tuple[str, list[dict[str, str]]]
) -> None:
    address = f"http://127.0.0.1:{stack.prefect_port}/api"
    made = subprocess.run(
        [sys.executable, "-c", WEBHOOK, notifications[0]],
        env={**stack.environment, **stack.logged_in, "PREFECT_API_URL": address},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    kinds = {
        action["type"]
        for each in stack.prefect("/automations/filter", {})
        for action in each["actions"]
    }
    assert kinds == {"do-nothing", "change-flow-run-state", "run-deployment"}


def test_ctrl_c_in_the_middle_of_a_run_leaves_no_process(
    stack: RunningStack, tiny_zoo: Zoo
) -> None:
    other = form(tiny_zoo)
    other["merge"]["models"][0]["weight"] = 0.45
    run = stack.start_run("merge/merge", other)
    assert wait_until(lambda: stack.state(run)["type"] == "RUNNING", 60)
    family = stack.processes()
    assert len(family) >= 6
    assert stack.interrupt() == 0
    assert [each.pid for each in family if is_alive(each.pid)] == []
    assert stack.processes() == []
    assert "stopped" in stack.output
    for port in (stack.prefect_port, stack.mlflow_port):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert stack.call("status").returncode == 1


def test_after_the_next_up_everything_is_there_again(stack: RunningStack) -> None:
    stack.up()
    assert len(versions(stack)) == 2
    assert switches(stack)[SCHEDULE]
    runs = stack.prefect("/flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC"})
    by_state = [run["state"]["name"] for run in runs if not run["auto_scheduled"]]
    assert "Completed" in by_state
    assert "Crashed" in by_state
    assert {"Running", "Pending"}.isdisjoint(by_state)
    automations = [each["name"] for each in stack.prefect("/automations/filter", {})]
    assert len(automations) == len(set(automations)) == 5
    report = {"artifacts": {"key": {"any_": ["zoo-decision"]}}}
    assert stack.prefect("/artifacts/filter", report)


def test_status_shows_the_last_runs_and_none_that_are_only_planned(stack: RunningStack) -> None:
    planned = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    assert wait_until(lambda: stack.prefect("/flow_runs/count", planned) > 0, 120), "one is on"
    shown = json.loads(stack.call("status", "--json").stdout)["runs"]
    assert {run["state"] for run in shown} == {"Completed", "Crashed"}
    assert all(run["started"] for run in shown)


def test_the_interrupted_merge_carries_on_when_it_is_started_again(
    stack: RunningStack, tiny_zoo: Zoo
) -> None:
    other = form(tiny_zoo)
    other["merge"]["models"][0]["weight"] = 0.45
    run = stack.finish(stack.start_run("merge/merge", other))
    assert ending(run) in ("Promoted", "Fell back"), run["state"]["message"]


def test_a_merge_that_falls_back_is_told_to_the_users_block(
    stack: RunningStack, tiny_zoo: Zoo, notifications: tuple[str, list[dict[str, str]]]
) -> None:
    far = form(tiny_zoo)
    for row in far["merge"]["models"]:
        row["weight"] = 9.0
    run = stack.finish(stack.start_run("merge/merge", far))
    assert ending(run) == "Fell back", run["state"]["message"]
    received = notifications[1]
    assert wait_until(lambda: any(run["name"] in each["subject"] for each in received), 60)
    (told,) = [each for each in received if run["name"] in each["subject"]]
    assert told["subject"] == f"merge: {run['name']} fell back"
    assert run["state"]["message"] in told["body"]
    assert f"http://127.0.0.1:{stack.prefect_port}/" in told["body"]


def test_a_run_that_fails_and_one_that_waits_for_approval_are_told_too(
    stack: RunningStack, tiny_zoo: Zoo, notifications: tuple[str, list[dict[str, str]]]
) -> None:
    received = notifications[1]
    wrong = stack.finish(stack.start_run("merge/merge", form(tiny_zoo, suite="siute")))
    assert wrong["state"]["type"] == "FAILED"
    other = form(tiny_zoo, promote=LENIENT | {"approve_within": "20s"})
    other["merge"]["models"][0]["weight"] = 0.47  # none that serves already: nobody would be asked
    waited = stack.finish(stack.start_run("merge/merge", other))
    assert "nobody approved within 20 s" in waited["state"]["message"]
    told = (f"merge: {wrong['name']} is Failed", f"approve: approve {waited['name']} is Paused")
    assert wait_until(lambda: set(told) <= {each["subject"] for each in received}, 60), received
    (failure,) = [each for each in received if each["subject"] == told[0]]
    assert "no suite 'siute'" in failure["body"]
    (question,) = [each for each in received if each["subject"] == told[1]]
    assert f"http://127.0.0.1:{stack.prefect_port}/" in question["body"]
    assert "None" not in question["body"]


def test_a_server_that_dies_is_started_again(stack: RunningStack) -> None:
    (server,) = [
        each
        for each in stack.processes()
        if "flows.servers.mlflow_server" in each.cmdline() and each.ppid() == stack.process.pid
    ]
    for process in [*server.children(recursive=True), server]:
        process.kill()
    assert wait_until(lambda: "MLflow server had ended" in stack.output, 20)
    assert wait_until(lambda: stack.call("status").returncode == 0, 60)
    assert len(versions(stack)) == 5


def test_nothing_outlives_an_up_that_was_killed(stack: RunningStack) -> None:
    family = stack.processes()
    assert stack.interrupt(signal.SIGKILL) == -signal.SIGKILL
    assert wait_until(lambda: not stack.processes(), 60)
    assert [each.pid for each in family if is_alive(each.pid)] == []


def test_the_next_up_ends_what_a_kill_of_up_and_guard_left_behind(stack: RunningStack) -> None:
    stack.up()
    (guard,) = [each for each in stack.processes() if "flows.stack.keeper" in each.cmdline()]
    workers = [each for each in stack.processes() if "worker" in each.cmdline()]
    guard.kill()
    stack.interrupt(signal.SIGKILL)
    assert all(is_alive(each.pid) for each in workers)
    stack.up()
    assert "left behind" in stack.output
    assert not any(is_alive(each.pid) for each in workers)
    assert stack.interrupt(signal.SIGTERM) == 0
    assert stack.processes() == []


def test_of_the_runs_that_were_missed_while_it_was_down_the_latest_alone_is_carried_out(
    stack: RunningStack,
) -> None:
    stack.up()
    deployment = stack.prefect("/deployments/name/merge/merge-scheduled")
    path = f"/deployments/{deployment['id']}"
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=25)
    rule = f"DTSTART:{soon:%Y%m%dT%H%M%S}\nRRULE:FREQ=SECONDLY;INTERVAL=5;COUNT=5"
    five = {"schedule": {"rrule": rule, "timezone": "UTC"}, "active": True, "slug": "five"}
    stack.prefect(f"{path}/schedules", [five])
    end = soon + timedelta(seconds=30)
    window = {"start_time": soon.isoformat(), "end_time": end.isoformat(), "min_runs": 5}
    stack.prefect(f"{path}/schedule", window)
    planned = scheduled(stack, deployment["id"], before=end)
    assert len(planned) == 5
    assert stack.interrupt() == 0
    time.sleep(max(0.0, (end - datetime.now(UTC)).total_seconds()))
    stack.up()
    assert f"{len(planned) - 1} scheduled runs were missed" in stack.output
    ended = [stack.finish(each)["state"]["type"] for each in planned]
    assert ended.count("CANCELLED") == len(planned) - 1
    assert ended[-1] == "FAILED", "the latest has run: there is no recipe where it looks for one"
    assert stack.interrupt() == 0


def scheduled(stack: RunningStack, deployment: str, before: datetime) -> list[str]:
    """The runs that schedules have planned until then, the earliest first."""
    wanted = {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {
            "state": {"type": {"any_": ["SCHEDULED"]}},
            "expected_start_time": {"before_": before.isoformat()},
        },
        "sort": "EXPECTED_START_TIME_ASC",
    }
    found = stack.prefect("/flow_runs/filter", wanted)
    return [each["id"] for each in found if each["auto_scheduled"]]


def test_a_port_that_is_taken_is_told_with_its_holder_and_a_free_one(stack: RunningStack) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        refused = stack.call("up", "--prefect-port", str(port), "--mlflow-port", str(free_port()))
    assert refused.returncode == 2
    assert f"port {port} is taken by" in refused.stderr
    assert f"(pid {os.getpid()})" in refused.stderr
    assert "--prefect-port " in refused.stderr
    assert stack.processes() == []
