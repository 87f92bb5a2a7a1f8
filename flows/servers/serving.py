"""A guarded server as a process: where it listens, and when it stops.

It is given a listening socket's number, and then ends with its parent, or an address `HOST:PORT`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

import uvicorn

from flows.servers.guard import App
from flows.servers.request_origin import AllowedHosts
from merge_core.errors import MergeflowError

HOSTS_VARIABLE = "MERGEFLOW_ALLOWED_HOSTS"
"""Names that a server answers to besides the loopback interface's, with commas between them."""


SERVER_VARIABLES = {"prefect": "MERGEFLOW_PREFECT", "mlflow": "MERGEFLOW_MLFLOW"}
"""Name the addresses of both servers of a stack, for the links from one to the other."""


def servers_beside() -> dict[str, str]:
    """The addresses that `SERVER_VARIABLES` name."""
    named = {server: os.environ.get(name) for server, name in SERVER_VARIABLES.items()}
    return {server: address for server, address in named.items() if address}


def allowed_hosts() -> AllowedHosts:
    """The names that `HOSTS_VARIABLE` lists."""
    names = os.environ.get(HOSTS_VARIABLE, "").split(",")
    return AllowedHosts([name.strip() for name in names if name.strip()])


def required(variable: str) -> str:
    """A variable without which no server is started: none is ever without a login.

    Raises:
        MergeflowError: it is not set.
    """
    value = os.environ.get(variable)
    if not value:
        raise MergeflowError(
            "is not set, and this server is not started without it",
            where=variable,
            mend="set it as deployments/compose.yaml does, or start the server with `mergeflow up`",
        )
    return value


def serve(make: Callable[[], App]) -> None:
    """Serve an application where the first argument says, until told to stop."""
    place = sys.argv[1]
    if ":" not in place:
        threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        app = make()
    except MergeflowError as error:
        sys.exit(str(error))
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="on",
        # Whoever asks could name any address and scheme in such a header.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    if ":" in place:
        config.host, _, port = place.rpartition(":")
        config.port = int(port)
        uvicorn.Server(config).run()
    else:
        uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(place))])


def _stop_with_parent() -> None:
    """Wait for standard input, the lifeline, to close; stop in order, and failing that, at once."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
    os.killpg(os.getpgid(0), signal.SIGKILL)
