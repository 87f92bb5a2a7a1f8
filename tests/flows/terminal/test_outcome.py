"""What a run says at its end: scores that can be read alone, and what to do after a refusal."""

from __future__ import annotations

import pytest

from flows.cli.run import show_outcome
from flows.terminal.console import Terminal
from tasks.promotion.rule import PromotionRule
from tasks.records import EvaluationReport, MergeOutcome
from tests.support.decisions import decide
from tests.tasks.promotion.test_rule import accuracy_task, report

BASE = report("base", accuracy_task("quiz", 200))


def said_of(candidate: EvaluationReport, capsys: pytest.CaptureFixture[str]) -> str:
    outcome = MergeOutcome.model_construct(
        decision=decide(candidate, BASE, PromotionRule()),
        scores={
            name: {each.task: each.score for each in of.scores}
            for name, of in (("base", BASE), ("merged", candidate))
        },
        odd_answers={},
        baseline="base",
        is_average=False,
        serve="/models/it",
        registration=None,
    )
    show_outcome(Terminal(), outcome)
    return capsys.readouterr().out


def test_the_table_says_which_way_is_better(capsys: pytest.CaptureFixture[str]) -> None:
    said = said_of(report("merged", accuracy_task("quiz", 260)), capsys)
    assert " change: positive is better; ↑ a higher score is better, ↓ a lower one\n" in said
    assert "  next  " not in said


def test_a_refusal_ends_with_what_to_try_next(capsys: pytest.CaptureFixture[str]) -> None:
    said = said_of(report("merged", accuracy_task("quiz", 120)), capsys)
    [step] = [line for line in said.splitlines() if line.startswith("  next  ")]
    assert "('diagnose: true' in the pipeline)" in step
    assert said.index(step) < said.index("  serve     /models/it")
