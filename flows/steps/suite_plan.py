"""What a suite can show of a merge: said before there is one, in the log and on the run's page."""

from __future__ import annotations

from flows.settings.pipeline import Pipeline
from flows.steps.artifacts import publish_report
from flows.steps.scores import Inputs
from merge_core.errors import StepError
from merge_core.text.plain import plain_log
from tasks.promotion.baselines import ComparedWith
from tasks.reports.suite_plan import plan_markdown

_log = plain_log("mergeflow")


def plan_suite(pipeline: Pipeline, inputs: Inputs) -> None:
    """Say the smallest gain that the suite can see, and which margins it cannot meet.

    Raises:
        StepError: it cannot meet one, and the rule says that it has to.
    """
    rule = pipeline.promote
    if rule.gate == "former":
        return
    from tasks.promotion.calibrated import gate_rule, nights_of, rule_against  # scipy is slow
    from tasks.promotion.suite_plan import plan_before_merge, plan_problems, plan_sentence

    first = ComparedWith(name=inputs.baseline.name, report=inputs.report)
    baselines = (first, *inputs.others)
    nights = nights_of(rule, [each.name for each in baselines])
    plans = [
        plan_before_merge(
            each.report,
            inputs.experts,
            each.name,
            rule_against(gate_rule(rule), each.name, nights),
            rule.must_hold or {},
        )
        for each in baselines
    ]
    publish_report(pipeline.name, "plan", plan_markdown(plans))
    problems: list[str] = []
    for plan in plans:
        _log.info("plan: %s", plan_sentence(plan))
        prefix = f"against {plan.against}, " if len(plans) > 1 else ""
        problems += [prefix + problem for problem in plan_problems(plan)]
    if rule.plan_must_hold and problems:
        raise StepError(
            "the suite cannot show what the rule asks for",
            where="promote.plan_must_hold",
            details=[f"  - {problem}" for problem in problems],
            mend="add documents to the suite, or allow a larger promote.guard_margin",
        )
    for problem in problems:
        _log.warning("warning: plan: %s", problem)
