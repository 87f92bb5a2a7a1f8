"""What a run says whose merge is better, and which leaves the alias with what a person chose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.cli.run import show_outcome
from flows.steps.judging import ending_words
from flows.terminal.console import Terminal
from merge_core.homes.home import Home
from tasks.records import MergeOutcome
from tasks.registry.chosen_by_hand import promote
from tasks.registry.register import register_merge
from tasks.reports.decision import serving_markdown
from tests.support.registrations import variant, zoo_merge


@pytest.fixture
def outcome(tiny_zoo: Any, merged: Path, after_promotion: str, tmp_path: Path) -> MergeOutcome:
    """A run that promotes version 3, while version 1 is pinned."""
    home = Home(tmp_path / "home")
    promote(home, after_promotion, "zoo", "1", why="the canary failed", by="Ada")
    better = zoo_merge(tiny_zoo, variant(merged, tmp_path / "better", "better"), after_promotion)
    registration = register_merge(**better, home=home)
    champion = registration.champion
    return MergeOutcome(
        state="Promoted",
        serve=better["manifest"].path,
        serve_digest=better["manifest"].digest,
        champion=f"models:/{champion.name}/{champion.version}",
        merged=better["manifest"],
        base=better["base"],
        decision=better["decision"],
        registration=registration,
    )


def test_output_json_page_and_last_message_say_that_a_pin_keeps_the_alias(
    outcome: MergeOutcome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome.registration is not None
    show_outcome(Terminal(), outcome)
    page = serving_markdown(outcome.serve, outcome.registration)
    said = {
        "output": capsys.readouterr().out,
        "JSON": outcome.model_dump_json(),
        "page": page,
        "message": ending_words(outcome),
    }
    for where, text in said.items():
        for part in ("the canary failed", "by Ada, as typed", "mergeflow unpin zoo"):
            assert part in text, where
    assert outcome.champion == "models:/zoo/1"
    assert "candidate models:/zoo/3 is better and registered, and does not serve" in said["output"]
    assert "models:/zoo/3" in page
    assert said["message"].startswith("models:/zoo/3 is better and registered, and the alias stays")
