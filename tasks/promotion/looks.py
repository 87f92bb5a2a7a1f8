"""An evaluation that is looked at before it is whole, and ends when the rule knows enough.

The order of the documents is fixed by the suite's own groups and a seed. After each share of them
the rule says whether the next one is worth it, at bounds that are spent on all looks together. What
was seen decides once: an evaluation that stopped is never gone on with, and counts for the rule and
the baselines alone that it was stopped by.

Imported only where a rule asks for it: the statistics load scipy.
"""

from __future__ import annotations

import numpy as np

from tasks.promotion.bar import Bar
from tasks.promotion.decision import decide
from tasks.records import EvaluationReport, TaskScore
from tasks.statistics.looks import look_of_documents
from tasks.statistics.sampling import Groups, Sampling

_SEED = 1234


class Looks(Bar):
    """How a candidate is looked at: by which rule, and beside which whole evaluations."""

    def of_documents(self) -> list[list[int]]:
        """For each task of the suite, at which look each of its documents is first seen, from 1."""
        return [_of_task(score, self.number) for score in self.baseline.scores]

    def goes_on(self, report: EvaluationReport) -> bool:
        """Whether the next documents are worth it."""
        return decide(report, self).verdict == "inconclusive"


def _of_task(score: TaskScore, number: int) -> list[int]:
    members = [identity.rpartition(":")[0] for identity in score.doc_ids]
    sampling = Sampling(
        np.ones(len(score.doc_ids)),
        Groups.of(score.clusters) if score.clusters else None,
        Groups.of(members) if len(set(members)) > 1 else None,
    )
    return [int(look) for look in look_of_documents(sampling, number, _SEED)]
