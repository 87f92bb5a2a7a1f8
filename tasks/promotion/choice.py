"""A decision on a merge that a search chose: its reasons tell among how many."""

from __future__ import annotations

from merge_core.findings import counted
from tasks.records import Decision

OTHER_HALF = "the suite's other half, none of which decides here"


def with_choice(
    decision: Decision, candidates: int, documents: int, of: str = OTHER_HALF
) -> Decision:
    """The decision with the number of candidates recorded and told.

    The verdict stays: where its documents are not those by which the candidate was chosen, an equal
    one is promoted no more often, however many there were.

    Args:
        documents: how many the candidates were compared on.
        of: which documents these were.
    """
    among = f"among {counted(candidates, 'candidate')}"
    word = f"chosen {among} by {counted(documents, 'document')} of {of}"
    return decision.model_copy(
        update={"reasons": (*decision.reasons, word), "candidates": candidates}
    )
