"""Looks at an evaluation before it is whole. It ends when the rule knows enough.

The suite's own groups and a seed fix the order of the documents. After each share of them the rule
says whether it needs the next one; all looks together promote noise no more often than one would.
An evaluation that stopped is never continued. It decides for the rule and the baselines that
stopped it, and for no others.

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
        """Whether the rule needs the next share of the documents."""
        return decide(report, self).verdict == "inconclusive"


def _of_task(score: TaskScore, number: int) -> list[int]:
    members = [identity.rpartition(":")[0] for identity in score.doc_ids]
    sampling = Sampling(
        np.ones(len(score.doc_ids)),
        Groups.of(score.clusters) if score.clusters else None,
        Groups.of(members) if len(set(members)) > 1 else None,
    )
    return [int(look) for look in look_of_documents(sampling, number, _SEED)]
