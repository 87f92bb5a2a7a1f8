"""Runs that come again on the same documents: against the champion, and against a fixed anchor.

Each night may promote one equal model by chance with probability alpha; sixty nights promote some
in a third of all cases. And a champion that lost its margin yesterday is today's baseline. So a
candidate has to be better than an anchor that stays, at alpha divided by the nights, as well.
"""

from __future__ import annotations

from dataclasses import replace

from tasks.statistics.rule import GateRule


def nightly_rules(rule: GateRule, nights: int) -> dict[str, GateRule]:
    """The rules against the champion, and against the anchor at `alpha / nights`.

    Args:
        nights: how many runs there will be on these documents, at least 1.

    Raises ValueError for fewer nights.
    """
    if nights < 1:
        raise ValueError(f"nights: {nights}, has to be at least 1")
    return {"champion": rule, "anchor": replace(rule, alpha=rule.alpha / nights)}
