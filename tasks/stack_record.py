"""What is written down of a running local stack: where its servers are and who holds it up."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from merge_core.home import Home
from merge_core.private_files import write_private
from tasks.server_login import CLIENT_VARIABLE, stack_login


@dataclass(frozen=True)
class StackRecord:
    """One run of `mergeflow up`."""

    instance: str
    """Carried by every process of the stack in its environment."""
    pid: int
    started: float
    """When the process `pid` was started, in seconds since the epoch: numbers are used again."""
    prefect: str
    """`http://127.0.0.1:PORT`, the UI; the API is below `/api`."""
    mlflow: str
    directory: str
    """Where relative paths in forms start: the directory that `up` was called in."""
    records: str = "SQLite"
    """Where Prefect and MLflow keep theirs, for people."""

    @property
    def api(self) -> str:
        """Address of Prefect's API."""
        return f"{self.prefect}/api"

    @property
    def addresses(self) -> dict[str, str]:
        """Settings by which Prefect's and MLflow's clients find the servers."""
        tracking = os.environ.get("MLFLOW_TRACKING_URI") or self.mlflow
        return {"PREFECT_API_URL": self.api, "MLFLOW_TRACKING_URI": tracking}

    def environment(self, home: Home) -> dict[str, str]:
        """The same with Prefect's login; MLflow's is `tasks.registry_login`'s business."""
        return {**self.addresses, CLIENT_VARIABLE: stack_login(home).text}


def running_stack(home: Home) -> StackRecord | None:
    """The stack that runs on this home, if one does."""
    record = read_record(home)
    if record is None:
        return None
    from tasks.same_process import is_same_process

    return record if is_same_process(record.pid, record.started) else None


def find_registry(home: Home) -> None:
    """Point MLflow's clients of this process to the stack when only its servers know the database.

    On SQLite every command may open the file itself, with the stack up or down.
    """
    if home.names_databases and not os.environ.get("MLFLOW_TRACKING_URI"):
        stack = running_stack(home)
        if stack is not None:
            os.environ["MLFLOW_TRACKING_URI"] = stack.mlflow


def read_record(home: Home) -> StackRecord | None:
    """The last stack that was not stopped in order; it may be long gone."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return StackRecord(**json.loads(_file(home).read_text("utf-8")))
    return None


def write_record(home: Home, record: StackRecord) -> None:
    """Make the stack known to other commands."""
    write_private(_file(home), json.dumps(asdict(record), indent=2))


def remove_record(home: Home) -> None:
    """The stack has been stopped and nothing of it is left."""
    _file(home).unlink(missing_ok=True)


def _file(home: Home) -> Path:
    return home.stack / "stack.json"
