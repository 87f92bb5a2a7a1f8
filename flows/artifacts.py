"""What a run shows on its page in Prefect: reports as markdown with tables, plots and graphs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact


def publish_report(pipeline: str, kind: str, markdown: str) -> None:
    """Attach a report to the current run; later runs of the pipeline become its newer versions."""
    key = re.sub(r"[^a-z0-9]+", "-", f"{pipeline}-{kind}".lower()).strip("-")
    create_markdown_artifact(markdown, key=key, description=f"{kind} of {pipeline}")


def with_warnings(markdown: str, warnings: Sequence[str]) -> str:
    """A report followed by what the recipe itself gives cause to say."""
    if not warnings:
        return markdown
    lines = "\n".join(f"* {warning}" for warning in warnings)
    return f"{markdown}\n\n### Warnings about the recipe\n\n{lines}\n"


def as_graph(mermaid: str, text: str) -> str:
    """A graph, followed by the same as text, for readers that draw no graphs."""
    return f"```mermaid\n{mermaid.rstrip()}\n```\n\n```\n{text.rstrip()}\n```\n"
