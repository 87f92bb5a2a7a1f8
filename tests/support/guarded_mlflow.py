"""MLflow's server as `mergeflow up` starts it, on a free port and a database of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.stack.health import answers
from tasks.servers.login import Login
from tests.support.processes import wait_until


@contextmanager
def guarded_mlflow(directory: Path, login: Login) -> Iterator[str]:
    """Its address, once it answers."""
    with socket.socket() as listener, (directory / "mlflow.log").open("wb") as log:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.servers.mlflow_server", str(listener.fileno())],
            env=os.environ
            | {
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{directory / 'mlflow.db'}",
                "MLFLOW_ARTIFACTS_DESTINATION": str(directory / "artifacts"),
                "MLFLOW_TRACKING_USERNAME": login.user,
                "MLFLOW_TRACKING_PASSWORD": login.password,
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    try:
        wait_until(lambda: answers(f"{address}/health") or process.poll() is not None, 120)
        assert process.poll() is None, (directory / "mlflow.log").read_text()
        yield address
    finally:
        assert process.stdin is not None
        process.stdin.close()  # the lifeline
        process.wait(20)
