"""The local stack: Prefect server, MLflow server and workers, up until the user stops them.

All processes of a stack are children of `mergeflow up`, each in a session of its own so that Ctrl-C
reaches `up` alone, and a guard ends them when `up` dies without having done so.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from flows.servers.serving import HOSTS_VARIABLE, SERVER_VARIABLES
from flows.stack.config import StackConfig
from flows.stack.health import answers
from flows.stack.links import remove_links, write_links
from flows.stack.ports import HOST
from flows.stack.prefect_session import QUIET, server_environment
from flows.stack.processes import (
    end_all,
    end_members,
    mark,
)
from merge_core.errors import MergeflowError, StepError
from merge_core.files.locks import try_lock
from merge_core.files.private import PRIVATE_UMASK, make_private_directory, open_private
from merge_core.homes.home import Home
from tasks.processes.model import last_lines
from tasks.processes.own_python import module_command
from tasks.processes.secret_variables import stack_variables
from tasks.servers.login import (
    CLIENT_VARIABLE,
    SERVER_VARIABLE,
    forget_login,
    keep_login,
    login_for_servers,
)
from tasks.servers.same_process import own_start_time
from tasks.servers.stack_record import StackRecord, read_record, remove_record, write_record

WORKER_NAME = "local"
"""Of the only worker; several are `local-1`, `local-2`, ..."""
RUNS_EACH = 2
"""Runs that each of several workers has at once: one, and a group of tensors of one."""

_START_SECONDS = 240.0
_RESTARTS = 3
_RESTART_WINDOW = 300.0
_LOG_BYTES = 5_000_000


@dataclass
class Service:
    """One process of the stack, and how to start it again."""

    title: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    health: str | None = None
    """Address that answers with status 200 once the service works."""
    listener: socket.socket | None = None
    """Listening socket that the process inherits."""
    process: subprocess.Popen[bytes] | None = None
    restarts: list[float] = field(default_factory=list)

    def start(self, lifeline: int) -> None:
        """Start the process; its standard input is the lifeline's reading end."""
        with os.fdopen(open_private(self.log), "ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=lifeline,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment,
                pass_fds=[self.listener.fileno()] if self.listener else [],
                start_new_session=True,
                umask=PRIVATE_UMASK,
                # Its own children, and Prefect's settings files, are looked for where it runs.
                cwd=self.log.parent,
            )

    @property
    def exit_status(self) -> int | None:
        """None while the process runs."""
        return self.process.poll() if self.process else None

    def is_healthy(self) -> bool:
        """Whether the service answers now."""
        return self.health is None or answers(self.health)

    def death(self) -> StepError:
        """The message for the user when the process has ended by itself."""
        status = self.exit_status
        how = "did not answer" if status is None else f"ended with exit status {status}"
        return StepError(
            f"{self.title} {how}; the end of its log:",
            details=[f"    {line}" for line in last_lines(self.log, 8)],
            where=str(self.log),
            mend="read the rest of this log",
        )


class Stack:
    """The processes of one `mergeflow up`."""

    def __init__(
        self, home: Home, prefect: socket.socket, mlflow: socket.socket, config: StackConfig
    ) -> None:
        self.home = home
        self.config = config
        self.login = login_for_servers(home)
        for directory in (home.logs, home.prefect, home.mlflow, home.cache, home.stack):
            make_private_directory(directory)
        self.record = StackRecord(
            instance=secrets.token_hex(8),
            pid=os.getpid(),
            started=own_start_time(),
            prefect=f"http://{HOST}:{prefect.getsockname()[1]}",
            mlflow=f"http://{HOST}:{mlflow.getsockname()[1]}",
            directory=str(Path.cwd()),
            records=config.shown,
        )
        self._reading, self._lifeline = os.pipe()
        self._guard: subprocess.Popen[bytes] | None = None
        self.prefect = self._prefect(prefect)
        self.mlflow = self._mlflow(mlflow)
        self.workers = [self._worker(name) for name in worker_names(config.workers)]
        self._running: list[Service] = []

    def start_servers(self) -> None:
        """Start the guard and both servers; `wait` tells when they work."""
        keep_login(self.home, self.login)
        write_links(self.home, self.record, self.login)
        write_record(self.home, self.record)
        self._guard = subprocess.Popen(
            module_command("flows.stack.keeper", self.record.instance),
            stdin=self._reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=server_environment(self.home, self.record.api),
            start_new_session=True,
            cwd=self.home.logs,
        )
        for service in (self.prefect, self.mlflow):
            self._start(service)

    def start_workers(self) -> None:
        """Start the processes that need the server's tables and work pool: services, workers."""
        if self.config.redis:
            self._start(self._prefect_services())
        for worker in self.workers:
            self._start(worker)

    def wait(self, *services: Service) -> None:
        """Return when these services answer, by default all that were started.

        Raises:
            StepError: a process ended or stayed silent; with the end of its log.
        """
        deadline = time.monotonic() + _START_SECONDS
        for service in services or self._running:
            while service.exit_status is not None or not service.is_healthy():
                if service.exit_status is not None or time.monotonic() > deadline:
                    raise service.death()
                time.sleep(0.1)

    def revive(self) -> list[Service]:
        """Start again whatever has ended by itself; what that was.

        Raises:
            StepError: one that ends again and again.
        """
        revived = []
        for service in self._running:
            if service.exit_status is None:
                continue
            now = time.monotonic()
            service.restarts = [t for t in service.restarts if now - t < _RESTART_WINDOW] + [now]
            if len(service.restarts) > _RESTARTS:
                raise service.death()
            service.start(self._reading)
            revived.append(service)
        return revived

    def stop(self, signals: Signals) -> None:
        """End every process, in order; on a second signal at once."""
        end_members(self.record.instance, hurry=lambda: signals.again)
        end_all(self.record.instance)
        os.close(self._lifeline)
        os.close(self._reading)
        for process in (self._guard, *(service.process for service in self._running)):
            if process is not None:
                process.wait()
        _forget(self.home)

    def _start(self, service: Service) -> None:
        _rotate(service.log)
        service.start(self._reading)
        self._running.append(service)

    def _environment(self, role: str) -> dict[str, str]:
        return {
            **server_environment(self.home, self.record.api),
            **mark(self.record.instance, role),
            "MERGEFLOW_HOME": str(self.home.path),
            SERVER_VARIABLES["prefect"]: self.record.prefect,
            SERVER_VARIABLES["mlflow"]: self.record.mlflow,
        }

    def _prefect_environment(self) -> dict[str, str]:
        return {
            **self._environment("prefect"),
            **self.config.prefect,
            SERVER_VARIABLE: self.login.text,
            HOSTS_VARIABLE: ",".join(self.config.allowed_hosts),
        }

    def _prefect(self, listener: socket.socket) -> Service:
        """The API, which also brings the database's tables up to date; without Redis, all of it."""
        api_alone = {"PREFECT__SERVER_WEBSERVER_ONLY": "1"} if self.config.redis else {}
        return Service(
            title="the Prefect server",
            command=module_command("flows.servers.prefect_server", str(listener.fileno())),
            environment={**self._prefect_environment(), **api_alone},
            log=self.home.logs / "prefect-server.log",
            health=f"{self.record.api}/health",
            listener=listener,
        )

    def _prefect_services(self) -> Service:
        """Scheduler, automations, and all else of the server that is not its API."""
        return Service(
            title="Prefect's background services",
            command=module_command("prefect", "server", "services", "start"),
            environment=self._prefect_environment(),
            log=self.home.logs / "prefect-services.log",
        )

    def _mlflow(self, listener: socket.socket) -> Service:
        embedded = f"sqlite:///{self.home.mlflow / 'mlflow.db'}"
        return Service(
            title="the MLflow server",
            command=module_command("flows.servers.mlflow_server", str(listener.fileno())),
            environment={
                **self._environment("mlflow"),
                "MLFLOW_BACKEND_STORE_URI": self.config.mlflow or embedded,
                "MLFLOW_ARTIFACTS_DESTINATION": str(self.home.mlflow / "artifacts"),
                "MLFLOW_TRACKING_USERNAME": self.login.user,
                "MLFLOW_TRACKING_PASSWORD": self.login.password,
                # Its own background jobs judge traces of agents; here they are six idle processes.
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                HOSTS_VARIABLE: ",".join(self.config.allowed_hosts),
            },
            log=self.home.logs / "mlflow-server.log",
            health=f"{self.record.mlflow}/health",
            listener=listener,
        )

    def _worker(self, name: str) -> Service:
        shared = ["--limit", str(RUNS_EACH)] if self.config.workers > 1 else []
        environment = self._environment("worker")
        of_servers = {"PREFECT__SERVER_FINAL", "PREFECT_UI_API_URL", *stack_variables(self.home)}
        for variable in of_servers & environment.keys():
            del environment[variable]
        return Service(
            title="the worker" if name == WORKER_NAME else f"the worker {name}",
            command=[
                *module_command("prefect", "worker", "start"),
                *("--pool", "mergeflow", "--type", "process", "--name", name),
                *shared,
            ],
            environment={
                **environment,
                **QUIET,
                "PREFECT_API_URL": self.record.api,
                CLIENT_VARIABLE: self.login.text,
                "PREFECT_LOCAL_STORAGE_PATH": str(self.home.cache),
                "PREFECT_LOGGING_EXTRA_LOGGERS": "mergeflow",
                "MLFLOW_TRACKING_URI": self.record.mlflow,
            },
            log=self.home.logs / f"worker{name.removeprefix(WORKER_NAME)}.log",
        )


class Signals:
    """Ctrl-C and `kill`: the first ends the work in hand, a second one the patience."""

    _NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.again = False
        self._seen = False

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._came) for number in self._NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stopping(self) -> None:
        """From now on a first signal is one more."""
        self._seen = True

    def _came(self, _number: int, _frame: FrameType | None) -> None:
        if self._seen:
            self.again = True
        else:
            self._seen = True
            raise KeyboardInterrupt


@contextlib.contextmanager
def only_one(home: Home) -> Iterator[None]:
    """Hold the home for one stack; the kernel lets go of it when this process dies.

    Raises:
        MergeflowError: another stack runs on it; says where.
    """
    with os.fdopen(open_private(home.stack / "lock"), "w") as file:
        if not try_lock(file.fileno(), home.stack / "lock"):
            record = read_record(home)
            raise MergeflowError(
                f"is up already: Prefect on {record.prefect}, MLflow on {record.mlflow}"
                if record
                else "is being started or stopped by another `mergeflow up`",
                where=str(home.path),
                mend="use it as it is, or stop it first (Ctrl-C where it runs)",
            )
        yield


def end_leftovers(home: Home) -> int:
    """End the processes that a killed `mergeflow up` left behind on this home; their number."""
    record = read_record(home)
    if record is None:
        return 0
    ended = end_members(record.instance)
    _forget(home)
    return ended


def worker_names(count: int) -> list[str]:
    """The names of the stack's workers in Prefect."""
    if count == 1:
        return [WORKER_NAME]
    return [f"{WORKER_NAME}-{number}" for number in range(1, count + 1)]


def _forget(home: Home) -> None:
    """Remove the record of a stack that is gone."""
    remove_record(home)
    remove_links(home)
    forget_login(home)


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_suffix(".log.old"))
