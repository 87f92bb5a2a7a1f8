"""The Prefect API for one command: the user's server when there is one, else our own for a while.

Our own server is a child process with its database under the mergeflow home, so runs made without
any server can be looked at later with `prefect server start` (see `mergeflow env`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from flows.environment.no_telemetry import NO_TELEMETRY
from flows.environment.prefect_logging import own_logging
from flows.environment.settings_beside import refuse_settings_beside
from flows.stack.health import answers
from flows.terminal.outside_faults import unreachable_server
from merge_core.errors import MergeflowError, StepError
from merge_core.files.private import (
    PRIVATE_UMASK,
    make_private_directory,
    open_private,
    private_umask,
)
from merge_core.homes.home import Home
from tasks.processes.own_python import import_path, module_command
from tasks.servers.login import CLIENT_VARIABLE, SERVER_VARIABLE, login_for_servers
from tasks.servers.stack_record import running_stack

_START_SECONDS = 120.0
_STOP_SECONDS = 8.0
_DRAIN_SECONDS = 5.0
_ENOUGH_BYTES = 8 << 20

QUIET = {**NO_TELEMETRY, "PREFECT_CLI_PROMPT": "false"}
"""No telemetry, no questions: nothing leaves this machine that the pipeline does not ask for."""

_CLIENT = {
    # Prefect's own log goes to the server and to our log file; the console has one line a step.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "mergeflow",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}

_LEASES = "prefect.server.concurrency.lease_storage.filesystem"
_UNUSED_SERVICES = (
    "SCHEDULER",
    "LATE_RUNS",
    "TRIGGERS",
    "FOREMAN",
    "PAUSE_EXPIRATIONS",
    "CANCELLATION_CLEANUP",
    "CLEANUP_RECONCILER",
    "DB_VACUUM",
)


@contextlib.contextmanager
def prefect_session(home: Home) -> Iterator[PrefectSession]:
    """Prefect for the block, with step results kept under `home.cache`.

    With `PREFECT_API_URL` set, that server is used as it is; else the servers of the local stack
    (`mergeflow up`) when it runs on this home. Otherwise one is started on a free port of the
    loopback interface, and stopped at the end of the block, after everything sent to it has been
    written down. It takes seconds to start: do other work (Prefect may be imported
    now), then call `ready()` before the first flow.

    Raises:
        HomeError: files in the working directory would give Prefect orders.
        MergeflowError: the home's runs are in databases whose stack is not up.
    """
    refuse_settings_beside()
    given = os.environ.get("PREFECT_API_URL")
    stack = running_stack(home)
    if given or stack:
        ours: dict[str, str] = {}
        if stack is not None and given in (None, "", stack.api):
            ours = {"PREFECT_HOME": str(home.prefect), **stack.environment(home)}
        with _client(home, ours), _drained():
            yield PrefectSession(os.environ["PREFECT_API_URL"], None)
        return
    if home.names_databases:
        raise MergeflowError(
            "runs are kept in the databases that this file names, and no server of them is up",
            where=str(home.stack_file),
            mend="start `mergeflow up`, or set PREFECT_API_URL to a server that runs already",
        )
    server = _Server(home)
    try:
        settings = {
            "PREFECT_HOME": str(home.prefect),
            "PREFECT_API_URL": server.api_url,
            CLIENT_VARIABLE: server.login.text,
        }
        with _client(home, settings), _drained():
            yield PrefectSession(server.api_url, server)
    finally:
        server.stop()


class PrefectSession:
    """Where the runs of this command are recorded."""

    def __init__(self, api_url: str, server: _Server | None) -> None:
        self.api_url = api_url
        self._server = server

    @property
    def embedded(self) -> bool:
        """Whether the server is our own and ends with this command."""
        return self._server is not None

    def ready(self) -> None:
        """Return when flows can run.

        Raises:
            StepError: our server did not start; the message names its log. Or the user's own server
                does not answer, or wants another login.
        """
        if self._server is not None:
            self._server.wait_until_healthy()
        else:
            _check_login(self.api_url)


def _check_login(api_url: str) -> None:
    """Find out before any work that a given server does not run, or does not let this user in."""
    from httpx import HTTPError, InvalidURL
    from prefect import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(get_client(sync_client=True))
            client.request("GET", "/admin/version")
        except PrefectHTTPStatusError as error:
            if error.response.status_code not in (401, 403):
                return
            raise StepError(
                "the Prefect server wants another login",
                where=api_url,
                mend=f"set {CLIENT_VARIABLE} to its NAME:PASSWORD; at the server of `mergeflow up`,"
                " leave PREFECT_API_URL out",
            ) from None
        except (HTTPError, InvalidURL, RuntimeError) as error:
            raise unreachable_server(api_url, error) from None


class _Server:
    """The child process that serves Prefect's API, from start to stop."""

    def __init__(self, home: Home) -> None:
        make_private_directory(home.prefect)
        make_private_directory(home.logs)
        self.login = login_for_servers(home)
        self.log = home.logs / "prefect-server.log"
        services = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _UNUSED_SERVICES}
        # The socket listens before the child exists: no port is guessed, no request is refused.
        with socket.socket() as listener, os.fdopen(open_private(self.log), "ab") as output:
            listener.bind(("127.0.0.1", 0))
            listener.listen(128)
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            self.api_url = f"{address}/api"
            self._child = subprocess.Popen(
                module_command("flows.servers.prefect_server", str(listener.fileno())),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={
                    **server_environment(home, self.api_url),
                    **services,
                    SERVER_VARIABLE: self.login.text,
                },
                pass_fds=[listener.fileno()],
                start_new_session=True,
                umask=PRIVATE_UMASK,
                cwd=home.logs,  # else Prefect would read settings from files where we are called
            )

    def wait_until_healthy(self) -> None:
        """Return when the API answers.

        Raises:
            StepError: the child ended or stayed silent.
        """
        deadline = time.monotonic() + _START_SECONDS
        while self._child.poll() is None and time.monotonic() < deadline:
            if answers(f"{self.api_url}/health", max(1.0, deadline - time.monotonic())):
                return
            time.sleep(0.05)
        full = shutil.disk_usage(self.log.parent).free < _ENOUGH_BYTES
        raise StepError(
            "the Prefect server did not start" + (": its disk is full" if full else ""),
            where=str(self.log),
            mend="free some space there, or name a home on another disk (MERGEFLOW_HOME=PATH)"
            if full
            else "read the end of this log; or set PREFECT_API_URL to a server that runs already",
        )

    def stop(self) -> None:
        """End the child: in order when it listens, at once when it does not."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            self._child.terminate()
        try:
            self._child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()


def server_environment(home: Home, api_url: str) -> dict[str, str]:
    """Environment of a Prefect server with its data under the home, for
    `flows.servers.prefect_server`.

    The login is left out: not every process that has the rest of it needs one.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return {
        **inherited,
        **QUIET,
        **own_logging(),
        # In memory, a killed run's hold on the GPU would outlive it for ever.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": _LEASES,
        # A machine under load is slow to start a run, whose place must not be given away meanwhile.
        "PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION": "900",
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
        "PYTHONPATH": import_path(os.environ),
        "PREFECT_HOME": str(home.prefect),
        "PREFECT_UI_API_URL": "/api",  # of the page's own origin: any name or tunnel leads here
        "PREFECT_UI_URL": api_url.removesuffix("/api"),  # of runs, in notifications
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT__SERVER_FINAL": "1",
    }


@contextlib.contextmanager
def _client(home: Home, settings: dict[str, str]) -> Iterator[None]:
    """Prefect's client settings, for imports of Prefect before and inside the block."""
    make_private_directory(home.cache)
    changed = {**QUIET, **_CLIENT, "PREFECT_LOCAL_STORAGE_PATH": str(home.cache), **settings}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        from prefect.context import refresh_global_settings_context
        from prefect.logging.configuration import setup_logging
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        refresh_global_settings_context()
        setup_logging()  # does nothing new when Prefect was imported just now
        logging.getLogger("mergeflow").setLevel(logging.INFO)
        # A heartbeat's thread adds a second to every run and tells nobody anything here: the
        # command that would be found dead is the one whose terminal the user looks at.
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), private_umask():
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if "prefect.context" in sys.modules:
            refresh_global_settings_context()


@contextlib.contextmanager
def _drained() -> Iterator[None]:
    """Send every event and log line before the server that takes them is stopped."""
    try:
        yield
    finally:
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        EventsWorker.drain_all(timeout=_DRAIN_SECONDS)
        APILogWorker.drain_all(timeout=_DRAIN_SECONDS)
