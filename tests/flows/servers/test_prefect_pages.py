"""What Prefect's pages may do: their own scripts, and `eval` where the old look needs it."""

from __future__ import annotations

import pytest

from flows.servers.prefect_server import page_policy


@pytest.mark.parametrize("path", ["/runs", "/dashboard", "/runs/flow-run/1", "/v2x", "/"])
def test_pages_of_the_old_look_may_ask_with_eval_what_there_is(path: str) -> None:
    assert "script-src 'self' 'unsafe-eval';" in page_policy(path)


@pytest.mark.parametrize("path", ["/v2", "/v2/", "/v2/runs"])
def test_pages_of_the_new_look_evaluate_no_text(path: str) -> None:
    assert "script-src 'self';" in page_policy(path)
    assert "unsafe-eval" not in page_policy(path)
