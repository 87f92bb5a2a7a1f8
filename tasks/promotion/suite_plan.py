"""What a suite can show of a merge before there is one, from the baseline and the experts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.promotion.measured import measurements
from tasks.promotion.task_reasons import about_documents
from tasks.promotion.wording import in_unit, number, unit_of_documents
from tasks.records import EvaluationReport, PlannedTask, SuitePlan
from tasks.roles import the
from tasks.statistics import GateRule, plan
from tasks.statistics.results import PlanResult


def plan_before_merge(
    baseline: EvaluationReport,
    experts: Sequence[EvaluationReport],
    name: str,
    rule: GateRule,
    must_hold: Mapping[str, float],
) -> SuitePlan:
    """The plan against one baseline. The decision after the merge has the same one.

    Raises:
        StepError: the evaluations are not of the same documents.
    """
    own = [each for each in experts if each.checkpoint_digest != baseline.checkpoint_digest]
    measured = measurements(baseline, baseline, own, None, must_hold)
    return suite_plan(plan(measured, rule), baseline, name, rule, must_hold)


def suite_plan(
    planned: PlanResult,
    baseline: EvaluationReport,
    name: str,
    rule: GateRule,
    must_hold: Mapping[str, float],
) -> SuitePlan:
    """The statistics' plan as a record."""
    return SuitePlan(
        against=name,
        visible=planned.visible_change,
        tasks=tuple(
            PlannedTask(
                task=task.name,
                metric=baseline.score(task.name).metric,
                documents=task.documents,
                groups=task.effective_groups,
                unit=task.unit,
                margin=task.margin,
                asked=must_hold.get(task.name) or rule.margin,
                reach=task.reach,
                is_met=task.is_met,
                documents_needed=task.documents_needed,
            )
            for task in planned.tasks
        ),
    )


def plan_problems(planned: SuitePlan) -> list[str]:
    """What the suite cannot show of what is asked for: one sentence for each task."""
    return [_problem(task) for task in planned.tasks if not task.is_met or _is_widened(task)]


def plan_sentence(planned: SuitePlan) -> str:
    """The smallest gain that this suite can see, in one sentence."""
    called = the(planned.against)
    if planned.visible is None:
        return (
            f"no expert was evaluated, so how small a gain over {called} these documents can show"
            " is not known before the merge"
        )
    return (
        f"a gain of about {number(planned.visible)} units on average over {called} is seen in these"
        " documents four times of five, a smaller one less often; that is what the suite can see,"
        f" and no pass mark (a unit is {unit_of_documents(called)})"
    )


def _is_widened(task: PlannedTask) -> bool:
    return task.margin > task.asked + 1e-9


def _problem(task: PlannedTask) -> str:
    unit = in_unit(task.metric) if "perplexity" not in task.metric else "bits"
    asked, margin = (f"{number(each * task.unit)} {unit}" for each in (task.asked, task.margin))
    documents = f"{task.documents} documents"
    if task.groups < task.documents:
        documents += f" in {number(task.groups)} groups"
    said = f"{task.task}: {documents} are too few"
    if task.reach is None:
        return f"{said} to judge"
    said += f" to show that a loss is no more than {asked}"
    if task.is_met:
        said += f", so {margin} is allowed"
    else:
        reach = number(task.reach * task.unit)
        said += f", nor than the {margin} that is allowed at most: they can show {reach}"
    about = about_documents(task.documents_needed, task.documents)
    return f"{said}; about {about} documents would do" if about else said
