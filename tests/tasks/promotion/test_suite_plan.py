"""What a suite can show of a merge, said before there is one."""

from __future__ import annotations

import numpy as np
import pytest

from flows.settings.pipeline import Pipeline
from flows.steps import suite_plan as step
from flows.steps.baselines import Baseline, Inputs
from merge_core.errors import StepError
from tasks.promotion.baselines import ComparedWith
from tasks.promotion.calibrated import gate_rule
from tasks.promotion.rule import PromotionRule
from tasks.promotion.suite_plan import plan_before_merge, plan_problems, plan_sentence
from tasks.records import EvaluationReport
from tasks.reports.suite_plan import plan_markdown
from tests.support.decisions import decide
from tests.tasks.promotion.test_calibrated import answers
from tests.tasks.promotion.test_rule import bits_task, report


def quiz(name: str, seed: int, count: int) -> EvaluationReport:
    """A model that answers a tenth of the documents otherwise than the base."""
    right = np.random.default_rng(1).random(count) < 0.6
    flips = np.random.default_rng(seed).random(count) < 0.1
    return report(
        name, bits_task("code", -0.01 * seed), answers("quiz", right ^ flips * (seed > 0))
    )


BASE, EXPERT = quiz("base", 0, 200), quiz("expert", 5, 200)
NUMBERS = gate_rule(PromotionRule())


def test_a_margin_that_the_documents_cannot_show_is_told_with_its_number() -> None:
    plan = plan_before_merge(BASE, [EXPERT], "base", NUMBERS, {})
    by_task = {task.task: task for task in plan.tasks}
    assert by_task["code"].margin == 0.1
    assert by_task["quiz"].margin > 0.1
    [said] = plan_problems(plan)
    assert said.startswith(
        "quiz: 200 documents are too few to show that a loss is no more than 0.0491 in accuracy, so"
    )
    assert "documents would do" in said
    needed = by_task["quiz"].documents_needed
    assert needed is not None
    more = [quiz(name, seed, round(1.3 * needed)) for name, seed in (("base", 0), ("expert", 5))]
    assert plan_problems(plan_before_merge(more[0], more[1:], "base", NUMBERS, {})) == []
    sentence = plan_sentence(plan)
    assert sentence.startswith("a gain of about 0.")
    assert "no pass mark (a unit is how much" in sentence


def test_the_plan_is_the_one_in_the_decision() -> None:
    plan = plan_before_merge(BASE, [EXPERT], "base", NUMBERS, {"quiz": 0.3})
    decision = decide(EXPERT, BASE, PromotionRule(must_hold={"quiz": 0.3}), [EXPERT])
    assert decision.gate is not None
    assert decision.gate.plan == plan
    assert [task.margin for task in plan.tasks] == [0.1, 0.3], "its own, which is never widened"


def test_without_experts_it_is_not_known() -> None:
    plan = plan_before_merge(BASE, [], "base", NUMBERS, {})
    assert "is not known before the merge" in plan_sentence(plan)
    assert plan_problems(plan) == []
    assert "nothing is known before the merge" in plan_markdown([plan])
    few = report("base", answers("quiz", np.ones(19, dtype=bool)))
    [said] = plan_problems(plan_before_merge(few, [], "base", NUMBERS, {}))
    assert said.endswith("19 documents are too few to judge")


def test_the_page_has_a_row_for_each_task() -> None:
    page = plan_markdown([plan_before_merge(BASE, [EXPERT], "base", NUMBERS, {})])
    assert "| quiz (in accuracy) | 0.0491 |" in page
    assert "four of five are promoted" in page


def test_the_step_says_it_and_ends_the_run_where_the_rule_asks_for_that(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pages = {}
    monkeypatch.setattr(step, "publish_report", lambda _, kind, page: pages.update({kind: page}))
    inputs = Inputs(
        baseline=Baseline("base", None),  # type: ignore[arg-type]
        report=BASE,
        others=(ComparedWith(name="./anchor", report=quiz("anchor", 9, 200)),),
        experts=(EXPERT,),
        origin=None,
    )

    def pipeline(**promote: object) -> Pipeline:
        recipe = {"merge_method": "linear", "models": [{"model": "./a"}, {"model": "./b"}]}
        values = {"name": "p", "recipe": recipe, "evaluate": {"suite": "s"}, "promote": promote}
        return Pipeline.model_validate(values)

    with caplog.at_level("INFO", "mergeflow"):
        step.plan_suite(pipeline(), inputs)
    assert "Against ./anchor" in pages["plan"]
    assert any(
        "plan: against ./anchor, quiz: 200 documents are too few" in m for m in caplog.messages
    )
    with pytest.raises(StepError, match="the suite cannot show what the rule asks for") as caught:
        step.plan_suite(pipeline(plan_must_hold=True), inputs)
    assert "quiz: 200 documents are too few" in str(caught.value)
    step.plan_suite(pipeline(plan_must_hold=True, guard_margin=0.3), inputs)
    pages.clear()
    step.plan_suite(pipeline(gate="former"), inputs)
    assert pages == {}
