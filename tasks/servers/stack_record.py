"""The record of a running local stack: the addresses of its servers, and its processes."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from merge_core.files.private import make_private_directory, write_private
from merge_core.homes.home import Home
from merge_core.output.working_directory import read_plain
from tasks.servers.login import CLIENT_VARIABLE, stack_login


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
    home: str = ""
    """What tells this home from a copy of it, which has the same record: `write_record` knows."""

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
        """The same with Prefect's login; MLflow's is `tasks.registry.login`'s business."""
        return {**self.addresses, CLIENT_VARIABLE: stack_login(home).text}


def running_stack(home: Home) -> StackRecord | None:
    """The stack that runs on this home, if one does."""
    record = read_record(home)
    if record is None:
        return None
    from tasks.servers.same_process import is_same_process

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
    """The last stack on this home that was not stopped in order; it may be long gone.

    One of the home that this is a copy of is none: its servers are not this home's, nor are its
    processes left-overs to be ended.
    """
    with contextlib.suppress(OSError, ValueError, TypeError):
        record = StackRecord(**json.loads(read_plain(_file(home))))
        if record.home in ("", _identity(home)):
            return record
    return None


def write_record(home: Home, record: StackRecord) -> None:
    """Make the stack known to other commands."""
    make_private_directory(home.stack)
    write_private(_file(home), json.dumps(asdict(record) | {"home": _identity(home)}, indent=2))


def remove_record(home: Home) -> None:
    """The stack has been stopped and nothing of it is left."""
    _file(home).unlink(missing_ok=True)


def _file(home: Home) -> Path:
    return home.stack / "stack.json"


def _identity(home: Home) -> str:
    """Of the home's directory: stays when it is moved, and is another one's in a copy."""
    status = home.path.stat()
    return f"{status.st_dev}:{status.st_ino}"
