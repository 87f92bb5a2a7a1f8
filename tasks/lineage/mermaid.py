"""The ancestry of a version as a mermaid flowchart, for a markdown page."""

from __future__ import annotations

from merge_core.text.markdown import mermaid_label
from tasks.lineage.graph import Lineage, LineageNode

_SHOWN = 12
MOST_EDGES = 400
"""Mermaid draws no graph of more than 500 edges, or of 50,000 letters, unless its page says so."""


def lineage_mermaid(lineage: Lineage) -> str:
    """The ancestry as a mermaid flowchart."""
    names = {node.digest: f"n{index}" for index, node in enumerate(lineage.nodes)}
    lines = ["flowchart LR", *(_shape(names[node.digest], node) for node in lineage.nodes)]
    lines.append(f'  {names[lineage.root]} ==> version["{mermaid_label(lineage.title)}"]')
    edges = {
        f"  {names[item.digest]} -->|{mermaid_label(item.role)}| {names[node.digest]}": None
        for item, node in lineage.edges()
    }
    return "\n".join([*lines, *edges]) + "\n"


def short_title(node: LineageNode) -> str:
    """The method that made a checkpoint, else the last part of its name."""
    if node.merge is None:
        return node.reference.rstrip("/").rpartition("/")[2] or node.reference
    return node.merge.method + (" (its run was deleted)" if node.merge.deleted else "")


def _shape(name: str, node: LineageNode) -> str:
    start, end = ("([", "])") if node.merge else ("[", "]")
    label = f"{mermaid_label(short_title(node))}<br/>{mermaid_label(node.digest[:_SHOWN])}"
    return f'  {name}{start}"{label}"{end}'
