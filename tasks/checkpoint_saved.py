"""Tells Prefect when a training run has saved a checkpoint, as the event `checkpoint.saved`.

Needs nothing of mergeflow and nothing of Prefect: this file may be copied beside a training script.

    from tasks.checkpoint_saved import CheckpointSaved
    trainer.add_callback(CheckpointSaved("http://127.0.0.1:4200/api"))
"""

from __future__ import annotations

import json
import logging
import os
import re
import urllib.request
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_SECONDS = 5.0
_log = logging.getLogger(__name__)


class CheckpointSaved(TrainerCallback):
    """A callback for the Hugging Face `Trainer`. It never disturbs a training run: an event that
    cannot be sent is logged and left out, and the next schedule finds the checkpoint anyway.
    """

    def __init__(self, api_url: str | None = None) -> None:
        """
        Args:
            api_url: of the Prefect server; by default `$PREFECT_API_URL`.
        """
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
        try:
            urllib.request.urlopen(request, timeout=_SECONDS).close()
        except (OSError, ValueError) as error:
            _log.warning("the event of step %s was not sent: %s", body["payload"]["step"], error)


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
