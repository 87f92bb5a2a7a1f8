"""A decision has one headline: on its page, at the end of a run, and from `mergeflow decide`."""

from __future__ import annotations

import pytest

from flows.terminal.console import Terminal
from flows.terminal.reports import say_decision, show_decision
from tasks.promotion.headline import CANDIDATE, headline
from tasks.promotion.rule import PromotionRule
from tasks.reports.decision import decision_markdown
from tests.support.decisions import decide
from tests.tasks.promotion.test_rule import accuracy_task, report

BASE = report("base", accuracy_task("quiz", 200))
BETTER = report("better", accuracy_task("quiz", 260))
WORSE = report("worse", accuracy_task("quiz", 120))
TOO_FEW = PromotionRule(min_documents=1000)
TAKEN = TOO_FEW.model_copy(update={"on_inconclusive": "promote"})
HEADLINES = [
    (BETTER, PromotionRule(), "Promoted: {} replaces {}"),
    (WORSE, PromotionRule(), "Fell back: {1} stays"),
    (BETTER, TOO_FEW, "Inconclusive: {1} stays"),
    (BETTER, TAKEN, "Inconclusive: {} is taken, as the rule says"),
]


@pytest.mark.parametrize(("candidate", "rule", "said"), HEADLINES)
def test_page_run_and_command_say_the_same_once(candidate, rule, said, capsys):
    decision = decide(candidate, BASE, rule)
    of_a_merge = said.format("the merged checkpoint", "the base")
    assert headline(decision) == of_a_merge
    page = decision_markdown(decision, BASE, [], candidate)
    assert page.startswith(f"## {of_a_merge}\n")
    titled = decision_markdown(decision, BASE, [], candidate, name="zoo|night")
    assert titled.startswith(f"# zoo\\|night\n\n## {of_a_merge}\n")
    say_decision(Terminal(), decision, "the merged checkpoint", "the base")
    first, *reasons = capsys.readouterr().out.splitlines()
    assert first == of_a_merge
    assert reasons == [f"  - {reason}" for reason in decision.reasons]
    show_decision(Terminal(), decision, BASE, [], candidate)
    shown = capsys.readouterr().out
    assert shown.count(said.format(CANDIDATE, "the base")) == 1
    assert "change: positive is better" in shown
