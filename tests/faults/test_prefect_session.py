"""The embedded Prefect server ends with the command that started it, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from flows.model_zoo import Zoo
from flows.stack.prefect_session import PrefectSession, prefect_session
from merge_core.errors import StepError
from merge_core.homes.home import Home
from tests.support.processes import is_alive, wait_until
from tests.support.stack import PROGRAM

pytestmark = pytest.mark.slow

COMMAND = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where a shell started us behind
from pathlib import Path
from merge_core.homes.home import Home
from flows.stack.prefect_session import prefect_session
with prefect_session(Home(Path(sys.argv[1]))) as session:
    session.ready()
    print(session._server._child.pid, session.api_url, flush=True)
    time.sleep(60)
"""


@contextmanager
def command_with_server(home: Home) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """A process in a session: itself, its server's pid, and the API's address."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(home.path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        pid, address = process.stdout.readline().split()
        yield process, int(pid), address
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL], ids=lambda s: s.name)
def test_no_server_outlives_its_command(
    prefect: PrefectSession, prefect_home: Home, ending: signal.Signals
) -> None:
    with command_with_server(prefect_home) as (process, server, address):
        assert is_alive(server)
        with urllib.request.urlopen(f"{address}/health") as answer:
            assert answer.status == 200
        process.send_signal(ending)
        process.wait(30)
        assert wait_until(lambda: not is_alive(server), 20)


def test_a_server_that_cannot_start_is_told_with_its_log(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    home.prefect.mkdir(parents=True)
    (home.prefect / "prefect.db").mkdir()
    with (
        prefect_session(home) as session,
        pytest.raises(StepError, match="did not start") as caught,
    ):
        session.ready()
    assert "prefect-server.log" in str(caught.value)
    assert (home.logs / "prefect-server.log").stat().st_size > 0


def test_approval_is_refused_before_any_work_where_nobody_could_give_it(
    tiny_zoo: Zoo, tmp_path: Path, home: Home
) -> None:
    values = {
        "name": "asked",
        "recipe": {
            "merge_method": "linear",
            "models": [
                {"model": str(model), "parameters": {"weight": 1}}
                for model in (tiny_zoo.base, tiny_zoo.code_expert)
            ],
        },
        "evaluate": {"suite": str(tiny_zoo.suite)},
        "promote": {"approve_within": "8h"},
    }
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump(values))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    command = [PROGRAM, "run", str(file)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 2, told.stderr
    assert "promote.approve_within" in told.stderr
    assert "start `mergeflow up`" in told.stderr
    assert not home.objects.exists()


def test_a_server_that_runs_already_is_used_and_left_running(
    prefect: PrefectSession, home: Home
) -> None:
    with prefect_session(home) as session:
        session.ready()
        assert session.api_url == prefect.api_url
        assert not session.embedded
    with urllib.request.urlopen(f"{prefect.api_url}/health") as answer:
        assert answer.status == 200
