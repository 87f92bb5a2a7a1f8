"""The ports of the local stack: which are free, and which processes hold the others."""

from __future__ import annotations

import contextlib
import socket

from flows.stack.processes import listener_of
from merge_core.errors import MergeflowError

HOST = "127.0.0.1"
PREFECT_PORT, MLFLOW_PORT = 4200, 5000
_TRY_PORTS = 20


def listen(wanted: int | None, default: int, option: str) -> tuple[socket.socket, str | None]:
    """A listening socket on localhost, and the holder of the default port when it is another one.

    Raises:
        MergeflowError: the wanted port is taken; names the process that has it, and a free port.
    """
    for port in range(default, default + _TRY_PORTS) if wanted is None else (wanted,):
        with contextlib.suppress(OSError):
            return _bound(port), None if port in (default, wanted) else _taken(default)
    free = _bound(0)
    number = free.getsockname()[1]
    free.close()
    raise MergeflowError(
        _taken(wanted if wanted is not None else default),
        where=f"{HOST}:{wanted or default}",
        mend=f"free it, or take another: {option} {number}",
    )


def _taken(port: int) -> str:
    holder = listener_of(port)
    return f"port {port} is taken" + (f" by {holder}" if holder else "")


def _bound(port: int) -> socket.socket:
    listener = socket.socket()
    try:
        # Else the connections of a stack that was stopped just now would keep its port for minutes.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener
