"""The ancestry of a new version on the run's page: drawn after all is done, never in its way."""

from __future__ import annotations

from flows.steps.artifacts import as_graph, publish_report
from merge_core.findings import counted
from merge_core.text.markdown import block
from merge_core.text.plain import plain_log
from tasks.lineage.graph import Lineage
from tasks.lineage.keep import keep_lineage
from tasks.lineage.mermaid import MOST_EDGES, lineage_mermaid
from tasks.lineage.text import render_lineage
from tasks.lineage.trace import lineage
from tasks.records import Registration

_log = plain_log("mergeflow")

_MOST_LINES = 400


def publish_lineage(pipeline: str, registration: Registration, tracking_uri: str) -> None:
    """Draw what the new version was made of, for the run's page and among its files in MLflow. The
    alias has moved by now: whatever goes wrong here is a warning, and the run ends as it was to
    end."""
    version = registration.candidate
    model_uri = f"models:/{version.name}/{version.version}"
    try:
        ancestry = lineage(model_uri, tracking_uri)
        publish_report(pipeline, "lineage", lineage_page(ancestry))
        keep_lineage(ancestry, registration.run_id, tracking_uri)
    except Exception as error:
        _log.warning(
            "warning: the page of this run has no lineage (%s: %s); everything is registered, and"
            " `mergeflow lineage %s` shows it",
            type(error).__name__,
            error,
            model_uri,
        )


def lineage_page(ancestry: Lineage) -> str:
    """Graph and tree as markdown; of an ancestry that is too large for a page, its beginning."""
    tree = render_lineage(ancestry)
    if sum(1 for _ in ancestry.edges()) <= MOST_EDGES:
        return as_graph(lineage_mermaid(ancestry), tree)
    lines = tree.splitlines()
    more = f"`mergeflow lineage models:/{ancestry.name}/{ancestry.version} --html` shows all."
    return (
        f"{counted(len(ancestry.nodes), 'checkpoint')}: too many to draw here. {more}\n\n"
        f"{block(chr(10).join(lines[:_MOST_LINES]))}"
    )
