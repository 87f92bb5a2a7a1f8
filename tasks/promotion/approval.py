"""A decision after a person was asked: what they said becomes the first of its reasons."""

from __future__ import annotations

from datetime import datetime

from tasks.records import Approval, Decision
from tasks.roles import MERGE, Roles
from tasks.units import spell_duration


def with_approval(
    decision: Decision, approval: Approval, within: str, roles: Roles = MERGE
) -> Decision:
    """The decision after a person's answer: the rule's own if they approved, else the base stays.

    Args:
        within: how long the run waited, as the pipeline writes it: `8h`.
        roles: what the base is called.
    """
    when = datetime.fromisoformat(approval.at).strftime("%Y-%m-%d %H:%M UTC")
    said = f": {approval.comment}" if approval.comment else ""
    if approval.approved:
        word = f"approved by {approval.by} on {when}{said}"
    elif approval.by is not None:
        word = f"{approval.by} kept {roles.the_baseline} on {when}{said}"
    else:
        word = f"nobody approved within {spell_duration(within)}"
    return decision.model_copy(
        update={
            "verdict": decision.verdict if approval.approved else "fell_back",
            "promote": approval.approved,
            "reasons": (word, *decision.reasons),
            "approval": approval,
        }
    )


def without_question(decision: Decision, champion: str) -> Decision:
    """The decision on a checkpoint that serves already: there is nothing to approve.

    Args:
        champion: the version that serves, `models:/NAME/VERSION`.
    """
    word = f"it is {champion}, the champion, already: nobody was asked again"
    return decision.model_copy(update={"reasons": (word, *decision.reasons)})
