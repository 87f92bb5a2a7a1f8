"""The reports on a run's page in Prefect: Markdown with tables, plots and graphs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from prefect.artifacts import create_link_artifact, create_markdown_artifact

from merge_core.text.markdown import block, inline
from merge_core.text.plain import LONGEST, plain
from tasks.records import Registration
from tasks.registry.client import is_server

_FOR_MODELS = "?workflowType=machine_learning"
"""Without it MLflow opens the pages for chats."""


def publish_report(pipeline: str, kind: str, markdown: str) -> None:
    """Attach a report to the current run; later runs of the pipeline become its newer versions."""
    create_markdown_artifact(
        markdown, key=_key(pipeline, kind), description=f"{kind} of {inline(pipeline)}"
    )


def publish_links(pipeline: str, registration: Registration) -> None:
    """Where the run's record and its version are in MLflow, to click on.

    Without an MLflow server there is no page to go to, and no link.
    """
    address = registration.tracking_uri.rstrip("/")
    if not is_server(address):
        return
    record = f"experiments/{registration.experiment_id}/runs/{registration.run_id}"
    version = registration.candidate
    pages = {
        "mlflow-run": (record, "the run in MLflow: scores, recipe, lineage, files"),
        "mlflow-version": (
            f"models/{quote(version.name, safe='')}/versions/{version.version}",
            f"models:/{version.name}/{version.version}, the merged checkpoint in MLflow",
        ),
    }
    for kind, (page, text) in pages.items():
        create_link_artifact(
            f"{address}/#/{page}{_FOR_MODELS}",
            link_text=plain(text),
            key=_key(pipeline, kind),
            description=inline(text),
        )


def with_warnings(markdown: str, warnings: Sequence[str]) -> str:
    """A report followed by the warnings about the recipe itself."""
    if not warnings:
        return markdown
    lines = "\n".join(f"* {inline(warning, LONGEST)}" for warning in warnings)
    return f"{markdown}\n\n### Warnings about the recipe\n\n{lines}\n"


def as_graph(mermaid: str, text: str) -> str:
    """A graph, followed by the same as text, for readers that draw no graphs."""
    return f"{block(mermaid.rstrip(), 'mermaid')}\n{block(text.rstrip())}"


def _key(pipeline: str, kind: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{pipeline}-{kind}".lower()).strip("-")
