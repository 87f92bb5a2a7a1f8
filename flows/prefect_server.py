"""A Prefect server as a child process that ends with the command that started it.

Run as `python -m flows.prefect_server FD`: FD is a listening socket, and standard input is the
lifeline. When the parent ends, for whatever reason, the lifeline closes and the server stops.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time


def main() -> None:
    """Serve the Prefect API and UI on the inherited socket until told to stop."""
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    listener = socket.socket(fileno=int(sys.argv[1]))
    import uvicorn

    _keep_catalogues_here()
    config = uvicorn.Config(
        "prefect.server.api.server:create_app",
        factory=True,
        log_level="warning",
        lifespan="on",
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[listener])


def _keep_catalogues_here() -> None:
    """Answer the pages that ask for lists of blocks and workers from what is installed: Prefect
    would fetch them from GitHub, and takes its own copy when that fails."""
    from prefect.server.api import collections

    collections.KNOWN_VIEWS.update(dict.fromkeys(collections.KNOWN_VIEWS, ""))


def _stop_with_parent() -> None:
    """Wait for the lifeline to close, stop in order, and failing that, at once."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main()
