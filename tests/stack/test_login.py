"""The login of a real stack: who finds it, who shows it to nobody, and the user's own in its place.

One home; the tests follow each other. Not part of `make test`: `make stack`.
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from flows.model_zoo import Zoo
from tests.support.stack import (
    PROGRAM,
    Refused,
    RunningStack,
    ending,
    form,
    merge_from_the_form,
    versions,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

OWN = "admin:my own:word"


def test_a_merge_is_carried_out_with_a_password_that_nobody_was_told(
    stack: RunningStack, tiny_zoo: Zoo
) -> None:
    merge_from_the_form(stack, tiny_zoo)


def test_the_password_is_nowhere_but_in_its_file_and_the_links(stack: RunningStack) -> None:
    secret = stack.login.partition(":")[2].encode()
    may_hold = {stack.home / "password", stack.home / "stack" / "links"}
    holds = {
        path
        for path in stack.home.rglob("*")
        if path.is_file() and not path.is_symlink() and secret in path.read_bytes()
    }
    assert holds == may_hold
    assert {path.stat().st_mode & 0o777 for path in may_hold} == {0o600}
    said = [" ".join(process.cmdline()) for process in stack.processes()]
    for arguments in (["status"], ["status", "--json"], ["env"]):
        done = stack.call(*arguments)
        said += [done.stdout, done.stderr]
    said += [stack.output, str(stack.prefect("/admin/settings")), str(versions(stack))]
    assert not [text for text in said if secret.decode() in text]
    assert str(Path("home/stack/links")) in stack.output, "in their place, the file"


def test_at_a_terminal_status_prints_a_link_for_each_server(stack: RunningStack) -> None:
    reading, terminal = pty.openpty()
    subprocess.run(
        [PROGRAM, "status"], stdout=terminal, cwd=stack.directory, env=stack.environment, check=True
    )
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(reading, 65536):
            shown += chunk
    except OSError:  # all of it has been read
        pass
    text = shown.decode().replace("\r\n", "")
    for port in (stack.prefect_port, stack.mlflow_port):
        assert f"http://127.0.0.1:{port}/sign-in#mergeflow%3A" in text
    assert stack.login.partition(":")[2] in text


SHELL = """
eval "$(mergeflow env)"
prefect work-pool ls | grep -q mergeflow && echo prefect
python -c 'import mlflow; print(mlflow.MlflowClient().search_registered_models()[0].name)'
printf 'user = "%s"\\n' "$(cat "$MERGEFLOW_HOME/password")" |
curl -s --config - -o /dev/null -w '%{http_code}\\n' -X POST "$PREFECT_API_URL/events" \
    -H 'Content-Type: application/json' -d '[{
  "id": "'$(cat /proc/sys/kernel/random/uuid)'", "occurred": "'$(date -Is)'", "event": "hello",
  "resource": {"prefect.resource.id": "mergeflow.hello"}, "payload": {}}]'
"""


def test_a_shell_that_took_the_settings_reaches_both_servers(stack: RunningStack) -> None:
    path = f"{Path(sys.executable).parent}:{stack.environment['PATH']}"
    done = subprocess.run(
        ["sh", "-c", SHELL],
        env=stack.environment | {"PATH": path},
        cwd=stack.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["prefect", "zoo", "204"], done.stderr


def test_after_a_stop_the_links_are_gone_and_the_password_stays(stack: RunningStack) -> None:
    before = stack.login
    assert stack.interrupt() == 0
    assert not (stack.home / "stack" / "links").exists()
    stack.up()
    assert stack.login == before


def test_the_users_own_login_is_the_one_that_is_asked_for(
    stack: RunningStack, tiny_zoo: Zoo
) -> None:
    made = stack.login
    assert stack.interrupt() == 0
    stack.variables["PREFECT_SERVER_API_AUTH_STRING"] = OWN
    stack.up()
    del stack.variables["PREFECT_SERVER_API_AUTH_STRING"]
    for ask in (lambda: stack.prefect("/admin/version"), lambda: versions(stack)):
        with pytest.raises(Refused, match="401"):
            ask()
    stack.variables["PREFECT_API_AUTH_STRING"] = OWN  # what the test itself sends
    assert stack.login == OWN != made
    assert len(versions(stack)) == 2
    status = stack.call("status")
    assert status.returncode == 0, status.stdout + status.stderr
    run = stack.finish(stack.start_run("merge/merge", form(tiny_zoo, dry_run=True)))
    assert ending(run) == "Dry run", run["state"]["message"]


def test_commands_find_the_users_own_login_without_being_told(stack: RunningStack) -> None:
    del stack.variables["PREFECT_API_AUTH_STRING"]
    assert stack.call("status").returncode == 0
    switched = stack.call("schedule", "merge-scheduled/nightly", "on")
    assert switched.returncode == 0, switched.stderr
    address = f"http://127.0.0.1:{stack.mlflow_port}"
    found = stack.call("lineage", "models:/zoo@champion", "--tracking-uri", address)
    assert found.returncode == 0, found.stderr
    assert OWN.partition(":")[2] not in stack.call("env").stdout + stack.output
    assert stack.interrupt() == 0
    assert not (stack.home / "stack" / "password").exists()
