"""Whom a run's candidate was judged against, in the last message of the run."""

from __future__ import annotations

import re

from tasks.records import Decision
from tasks.roles import the

_SAID = re.compile(r"^(?:Promoted|Fell back): against (.+?): ")


def said_against(decision: Decision) -> str:
    """Before the reasons, at a run's end: whom it was judged against, if not the base alone."""
    if decision.baselines == ("base",):
        return ""
    return f"against {' and '.join(the(name) for name in decision.baselines)}: "


def against_of(message: str) -> str | None:
    """What `said_against` has put into a run's message; None where it is the base alone."""
    found = _SAID.match(message)
    return found[1] if found else None
