"""What a suite can show, as a page: the smallest gain, and each task's margin."""

from __future__ import annotations

from collections.abc import Sequence

from merge_core.text.markdown import inline, table
from merge_core.text.plain import LONGEST
from tasks.promotion.wording import in_unit, number, unit_of_documents
from tasks.records import PlannedTask, SuitePlan
from tasks.roles import the


def plan_markdown(plans: Sequence[SuitePlan]) -> str:
    """One part for each baseline."""
    lines = ["## What this suite can show", ""]
    for plan in plans:
        lines += [*_part(plan), ""]
    lines += [
        "Made before the merge, from the evaluations of the baseline and the experts alone. A unit"
        f" is {unit_of_documents('the baseline')}. *Allowed as a rule*: the loss that the rule"
        " allows. *Can show*: the smallest loss that a merge which loses nothing is shown to be"
        " free of nine times of ten. *Allowed here*: more than as a rule, where the documents are"
        " too few to show so little. *Needed*: about how many documents would do for what is"
        " allowed as a rule.",
    ]
    return "\n".join(lines) + "\n"


def _part(plan: SuitePlan) -> list[str]:
    name = inline(the(plan.against), LONGEST)
    if plan.visible is None:
        said = f"Against {name}: no expert was evaluated, so nothing is known before the merge."
    else:
        said = (
            f"Against {name}: of merges that are truly better by {number(plan.visible)} units on"
            " average four of five are promoted. It is what the suite can see, and no pass mark: a"
            " smaller gain is seen less often."
        )
    head = ["task", "allowed as a rule", "can show", "allowed here", "documents", "needed"]
    rows = [_row(task) for task in plan.tasks]
    return [said, "", *table(head, rows, ("task",))]


def _row(task: PlannedTask) -> list[str]:
    unit = in_unit(task.metric) if "perplexity" not in task.metric else "bits"
    sizes = [task.asked, task.reach, task.margin]
    told = ["-" if each is None else number(each * task.unit) for each in sizes]
    needed = task.documents_needed
    return [
        f"{task.task} ({unit})",
        *told[:2],
        told[2] if task.is_met else f"{told[2]}, too few",
        str(task.documents),
        "-" if needed is None else number(float(f"{needed:.2g}")) if needed > 99 else str(needed),
    ]
