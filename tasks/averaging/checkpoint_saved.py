"""Tells Prefect when a training run has saved a checkpoint, as the event `checkpoint.saved`.

Needs nothing of mergeflow and nothing of Prefect: this file may be copied beside a training script.

    from tasks.averaging.checkpoint_saved import CheckpointSaved
    trainer.add_callback(CheckpointSaved("http://127.0.0.1:4200/api"))

The server's login comes from `$PREFECT_API_AUTH_STRING`; at a server of this machine, else from the
file of mergeflow's data directory.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import re
import stat
import urllib.request
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_SECONDS = 5.0
_log = logging.getLogger(__name__)


class CheckpointSaved(TrainerCallback):
    """A callback for the Hugging Face `Trainer`. It never disturbs a training run: an event that
    cannot be sent is logged and left out, and the next schedule finds the checkpoint anyway.
    """

    def __init__(self, api_url: str | None = None, login_file: Path | str | None = None) -> None:
        """
        Args:
            api_url: of the Prefect server; by default `$PREFECT_API_URL`.
            login_file: holds the server's `NAME:PASSWORD`, where the environment does not.
        """
        self.login_file = Path(login_file) if login_file else None
        self.api_url = api_url or os.environ.get("PREFECT_API_URL", "http://127.0.0.1:4200/api")

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Called by the trainer after a checkpoint has been written."""
        if not state.is_world_process_zero:
            return
        run = Path(str(args.output_dir)).absolute()
        self._send(event(run, f"checkpoint-{state.global_step}", state.global_step))

    def _send(self, body: dict[str, Any]) -> None:
        request = urllib.request.Request(
            f"{self.api_url.rstrip('/')}/events",
            data=json.dumps([body]).encode(),
            headers={"Content-Type": "application/json"},
        )
        login = self._login()
        if login:  # which no redirection takes to another server
            token = base64.b64encode(login.encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {token}")
        try:
            urllib.request.urlopen(request, timeout=_SECONDS).close()
        except (OSError, ValueError) as error:
            _log.warning("the event of step %s was not sent: %s", body["payload"]["step"], error)

    def _login(self) -> str | None:
        """Read anew for each event: the server may have been given another one since."""
        given = os.environ.get("PREFECT_API_AUTH_STRING")
        if given:
            return given
        if self.login_file:
            return _first_line(self.login_file)
        if urlsplit(self.api_url).hostname != "127.0.0.1":
            return None  # another server's business
        home = _home()
        return _first_line(home / "stack" / "password") or _first_line(home / "password")


def _home() -> Path:
    """mergeflow's data directory, as mergeflow finds it."""
    named = os.environ.get("MERGEFLOW_HOME")
    if named:
        return Path(named).expanduser()
    here = Path.cwd()
    above = (directory / ".mergeflow" for directory in (here, *here.parents))
    return next((home for home in above if home.is_dir()), Path.home() / ".mergeflow")


def _first_line(file: Path) -> str | None:
    """The content of a file that only this user may read; None where there is no such file."""
    with contextlib.suppress(OSError), file.open(encoding="utf-8", errors="replace") as opened:
        found = os.fstat(opened.fileno())
        if stat.S_ISREG(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077:
            return opened.readline(4096).strip() or None
    return None


def event(run: Path, checkpoint: str, step: int) -> dict[str, Any]:
    """The event as Prefect's API takes it.

    Args:
        run: absolute directory that the training writes its checkpoints into.
        checkpoint: name of the checkpoint's directory in it.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", run.name).strip("-._") or "training"
    return {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "checkpoint.saved",
        "resource": {
            "prefect.resource.id": f"mergeflow.training.{name}",
            "prefect.resource.name": name,
        },
        "payload": {"name": name, "run": str(run), "checkpoint": checkpoint, "step": step},
    }
