"""The ancestry as a page among the files of the merge's run, where MLflow shows it."""

from __future__ import annotations

from tasks.lineage.graph import Lineage
from tasks.lineage.html import lineage_html
from tasks.registry.client import open_registry
from tasks.registry.file_list import PAGE_TAG, sha256_of
from tasks.registry.run_files import log_files

PAGE = "lineage.html"


def keep_lineage(ancestry: Lineage, run_id: str, tracking_uri: str) -> None:
    """Put the page there, unless there is one: what a later look finds is no part of the record.

    Raises:
        StepError: MLflow refused.
    """
    with open_registry(tracking_uri, writing=True) as registry:
        there = {item.path for item in registry.client.list_artifacts(run_id)}
        if PAGE not in there:
            page = lineage_html(ancestry)
            registry.client.set_tag(run_id, PAGE_TAG, sha256_of(page))
            log_files(registry, run_id, {PAGE: page})
