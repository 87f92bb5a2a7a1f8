"""Whether a search has nothing left to try. Candidates that it knows already cost nothing, so a
budget of minutes or documents alone would never end it.
"""

from __future__ import annotations

from collections.abc import Sequence

from merge_core.files.digests import canonical_json
from tasks.search.space import Space
from tasks.search.trial import Trial

MOST_IN_VAIN = 100
"""Trials in a row without a new merge. A sampler that still finds new ones finds one far sooner."""


def why_exhausted(space: Space, trials: Sequence[Trial]) -> str:
    """Why no trial would tell anything new; nothing where one may.

    Args:
        trials: in the order in which they ended.
    """
    size = space.size
    tried = {canonical_json(trial.values) for trial in trials if trial.values}
    if size is not None and len(tried) >= size:
        return "every point of the space is tried"
    if _in_vain(trials) >= MOST_IN_VAIN:
        return f"the last {MOST_IN_VAIN} candidates were no new merges"
    return ""


def _in_vain(trials: Sequence[Trial]) -> int:
    """How many trials ended since the last merge that was new."""
    seen: set[str] = set()
    count = 0
    for trial in trials:
        is_new = trial.result.outcome != "failed" and trial.result.recipe not in seen
        seen.add(trial.result.recipe)
        count = 0 if is_new else count + 1
    return count
