"""The lineage on a run's page is drawn after everything else, and stands in nobody's way."""

from __future__ import annotations

import logging

import pytest

from flows.steps import lineage_page
from tests.support.registry_contents import Registered


def test_a_lineage_that_cannot_be_drawn_is_a_warning(
    promoted: Registered, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "mergeflow"):
        gone = promoted.result.candidate.model_copy(update={"version": "99"})
        result = promoted.result.model_copy(update={"candidate": gone})
        lineage_page.publish_lineage("zoo", result, promoted.registry)
    [said] = [record.getMessage() for record in caplog.records]
    assert "the page of this run has no lineage" in said
    assert "`mergeflow lineage models:/zoo/99` shows it" in said


def test_nor_does_a_page_that_cannot_be_shown_fail_a_run(
    promoted: Registered, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr(lineage_page, "publish_report", refuse)
    with caplog.at_level(logging.WARNING, "mergeflow"):
        lineage_page.publish_lineage("zoo", promoted.result, promoted.registry)
    assert "RecursionError" in caplog.text
