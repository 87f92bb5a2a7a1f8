"""Writing files to a run in MLflow, tables among them. Writing the same again changes nothing."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.registry.client import Registry
from tasks.registry.tables import Table

if TYPE_CHECKING:
    from mlflow.entities import Run

_LISTED = "mlflow.loggedArtifacts"
"""The tag that tells MLflow's pages which JSON files are tables."""


def log_files(registry: Registry, run_id: str, files: Mapping[str, str | bytes]) -> None:
    """Put files among those of a run, by relative name."""
    with tempfile.TemporaryDirectory(prefix="mergeflow-") as scratch:
        root = Path(scratch)
        for name, content in files.items():
            path = root / name
            if not path.resolve().is_relative_to(root.resolve()):
                raise ValueError(f"artifact name leaves its directory: {name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        registry.client.log_artifacts(run_id, str(root))


def table_text(table: Table) -> str:
    """A table as its file has it."""
    return json.dumps(table)


def log_tables(registry: Registry, run: Run, tables: Mapping[str, Table]) -> None:
    """Put tables among the files of a run, and let MLflow know that they are tables.

    MLflow's own function for it would append to a file that is there.
    """
    log_files(registry, run.info.run_id, {name: table_text(each) for name, each in tables.items()})
    listed = json.loads(run.data.tags.get(_LISTED, "[]"))
    wanted = [{"path": name, "type": "table"} for name in tables]
    missing = [each for each in wanted if each not in listed]
    if missing:
        registry.client.set_tag(run.info.run_id, _LISTED, json.dumps([*listed, *missing]))
