"""A `mergeflow up` as a user starts it, watched from outside."""

from __future__ import annotations

import base64
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from flows.model_zoo import Zoo
from tests.support.processes import wait_until

PROGRAM = str(Path(sys.executable).parent / "mergeflow")
START_SECONDS = 300
LENIENT = {"max_regression": 0.1, "min_gain": -0.1, "on_inconclusive": "promote"}
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def free_port() -> int:
    """A port of localhost that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class RunningStack:
    """One home, and the `mergeflow up` that runs on it, if one does."""

    home: Path
    directory: Path
    """Where `up` is called."""
    prefect_port: int = field(default_factory=free_port)
    mlflow_port: int = field(default_factory=free_port)
    process: subprocess.Popen[str] | None = None
    variables: dict[str, str] = field(default_factory=dict)
    """What the user has set for this stack: passwords."""
    program: str = PROGRAM

    @property
    def environment(self) -> dict[str, str]:
        """A user's environment, without what the tests themselves set."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "MLFLOW_", "MERGEFLOW_"))
        }
        return {**kept, **self.variables, "MERGEFLOW_HOME": str(self.home)}

    @property
    def login(self) -> str:
        """`NAME:PASSWORD` of its servers."""
        own = self.variables.get("PREFECT_API_AUTH_STRING")
        return own or (self.home / "password").read_text().strip()

    @property
    def logged_in(self) -> dict[str, str]:
        """What `mergeflow env` sets beside the addresses."""
        name, _, password = self.login.partition(":")
        return {
            "PREFECT_API_AUTH_STRING": self.login,
            "MLFLOW_TRACKING_USERNAME": name,
            "MLFLOW_TRACKING_PASSWORD": password,
        }

    @property
    def output(self) -> str:
        """What `up` has printed so far."""
        return (self.directory / "up.log").read_text()

    def up(self) -> RunningStack:
        """Start, and wait until it says that it is ready."""
        ports = ["--prefect-port", str(self.prefect_port), "--mlflow-port", str(self.mlflow_port)]
        with (self.directory / "up.log").open("w") as log:
            self.process = subprocess.Popen(
                [self.program, "up", *ports],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=self.environment,
                text=True,
                start_new_session=True,
            )
        process = self.process
        wait_until(lambda: "ready in" in self.output or process.poll() is not None, START_SECONDS)
        assert "ready in" in self.output, self.output
        return self

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal to `up` alone; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(180)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command of mergeflow on the same home."""
        return subprocess.run(
            [self.program, *arguments],
            capture_output=True,
            text=True,
            cwd=self.directory,
            env=self.environment,
            check=False,
        )

    def prefect(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Prefect's API; what it answers."""
        return self._ask(f"http://127.0.0.1:{self.prefect_port}/api{path}", body, method)

    def mlflow(self, path: str, body: Any = None, **query: str) -> Any:
        """MLflow's API; what it answers."""
        address = f"http://127.0.0.1:{self.mlflow_port}/api/2.0/mlflow{path}"
        return self._ask(f"{address}?{urllib.parse.urlencode(query)}", body)

    def _ask(self, address: str, body: Any = None, method: str | None = None) -> Any:
        token = base64.b64encode(self.login.encode()).decode()
        return _ask(address, {"Authorization": f"Basic {token}"}, body, method)

    def start_run(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Start a run of a deployment as the UI does; its id."""
        found = self.prefect(f"/deployments/name/{deployment}")
        path = f"/deployments/{found['id']}/create_flow_run"
        return str(self.prefect(path, {"parameters": parameters})["id"])

    def state(self, run: str) -> dict[str, Any]:
        """The state that a run is in."""
        state: dict[str, Any] = self.prefect(f"/flow_runs/{run}")["state"]
        return state

    def finish(self, run: str, seconds: float = 600) -> dict[str, Any]:
        """Wait for the end of a run; the run."""
        wait_until(lambda: self.state(run)["type"] in FINAL, seconds)
        found: dict[str, Any] = self.prefect(f"/flow_runs/{run}")
        return found

    def log(self, run: str) -> list[dict[str, Any]]:
        """The log of a run, the earliest line first."""
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
        return list(self.prefect("/logs/filter", body))

    def processes(self) -> list[psutil.Process]:
        """Every descendant of `up`, and everything that mentions the home in its environment or
        command line: found without the mark that mergeflow itself looks for."""
        assert self.process is not None
        found: dict[int, psutil.Process] = {}
        if self.process.poll() is None:
            family = psutil.Process(self.process.pid)
            found |= {each.pid: each for each in [family, *family.children(recursive=True)]}
        for process in psutil.process_iter():
            try:
                said = [*process.environ().values(), *process.cmdline()]
            except (psutil.Error, OSError):
                continue
            if process.pid != os.getpid() and any(str(self.home) in text for text in said):
                found[process.pid] = process
        return [each for each in found.values() if _lives(each)]


class Refused(Exception):  # noqa: N818 - an answer, not a mistake of the test
    """An answer with an error status."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}")
        self.status, self.said = status, said


def lay_out(directory: Path, zoo: Zoo) -> None:
    """What a user has where `up` is called: a quick suite, and the models."""
    shutil.copytree(zoo.suite, directory / "suite")
    suite = yaml.safe_load((directory / "suite" / "suite.yaml").read_text())
    suite["tasks"] = [task for task in suite["tasks"] if task["task"].endswith("bpb")]
    (directory / "suite" / "suite.yaml").write_text(yaml.safe_dump(suite))
    (directory / "zoo").symlink_to(zoo.directory)


def form(zoo: Zoo, **changes: Any) -> dict[str, Any]:
    """The form as a user fills it in; the suite is beside the directory of `up`."""
    merge = {
        "method": "task_arithmetic",
        "base": str(zoo.base),
        "models": [
            {"model": str(zoo.code_expert), "weight": 0.5},
            {"model": str(zoo.prose_expert), "weight": 0.5},
        ],
    }
    values = {
        "name": "zoo",
        "merge": merge,
        "suite": "suite",
        "promote": LENIENT,
        "registered_model": "zoo",
        "device": "cpu",
    }
    return values | changes


def ending(run: dict[str, Any]) -> str:
    """What came of a run that succeeded, by the first words of its message; its tag agrees."""
    assert run["state"]["name"] == "Completed", run["state"]
    words: str = run["state"]["message"].partition(":")[0]
    assert words.lower().replace(" ", "-") in run["tags"]
    return words


def versions(stack: RunningStack) -> list[dict[str, Any]]:
    """Versions of the model that the form registers."""
    found = stack.mlflow("/model-versions/search", filter="name='zoo'")
    return list(found.get("model_versions", []))


def switches(stack: RunningStack) -> dict[str, bool]:
    """Whether each schedule is on, by its name."""
    status = json.loads(stack.call("status", "--json").stdout)
    return {each["name"]: each["active"] for each in status["schedules"]}


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _ask(address: str, headers: dict[str, str], body: Any, method: str | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        address, data, {**headers, "Content-Type": "application/json"}, method=method
    )
    for attempt in range(3):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == 2:
                raise Refused(error.code, error.read().decode()) from None
            time.sleep(1)
        except TimeoutError:  # a machine under load; a question may be asked again
            if body is not None or attempt == 2:
                raise
    raise AssertionError("three attempts return or raise")


def merge_from_the_form(stack: RunningStack, zoo: Zoo) -> None:
    """Start a merge as the form does, and find it promoted and registered."""
    run = stack.finish(stack.start_run("merge/merge", form(zoo)))
    assert ending(run) == "Promoted", run["state"]["message"]
    assert run["name"].startswith("zoo-")
    lines = [line["message"] for line in stack.log(run["id"]) if line["level"] == logging.INFO]
    assert any(line.startswith("merge task_arithmetic: ") for line in lines), lines
    assert any("fine-tune of the base" in line for line in lines), lines
    assert stack.login.partition(":")[2] not in str(lines)
    assert {"mergeflow", "task_arithmetic", "suite", "zoo"} <= set(run["tags"])
    merged, base = versions(stack)
    assert {merged["current_stage"], base["current_stage"]} == {"None"}
    champion = stack.mlflow("/registered-models/alias", name="zoo", alias="champion")
    assert champion["model_version"]["version"] == merged["version"]
