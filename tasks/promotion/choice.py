"""A decision on a merge that a search chose: its reasons tell among how many."""

from __future__ import annotations

from tasks.records import Decision


def with_choice(decision: Decision, candidates: int, documents: int) -> Decision:
    """The decision with the number of candidates recorded and told.

    The verdict stays: its documents are not those by which the candidate was chosen, so however
    many there were, an equal one is promoted no more often.

    Args:
        documents: how many the candidates were compared on.
    """
    word = (
        f"chosen among {candidates} candidates by {documents} documents of the suite's other half,"
        " none of which decides here"
    )
    return decision.model_copy(
        update={"reasons": (*decision.reasons, word), "candidates": candidates}
    )
