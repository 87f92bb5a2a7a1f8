"""The evaluations of one run, in the order in which they are shown."""

from __future__ import annotations

from dataclasses import dataclass

from merge_core.records import SourceCheckpoint
from tasks.evaluation.odd_answers import odd_answers
from tasks.promotion.bar import Bar
from tasks.promotion.baselines import Compared, ComparedWith
from tasks.promotion.rule import PromotionRule
from tasks.records import EvaluationReport
from tasks.reports.names import distinct_names
from tasks.roles import MERGE, Roles


@dataclass(frozen=True)
class Scores:
    """The evaluations of one run."""

    base: EvaluationReport
    experts: tuple[EvaluationReport, ...]
    merged: EvaluationReport
    roles: Roles = MERGE
    """The names of the first and the last checkpoint."""
    others: tuple[ComparedWith, ...] = ()
    """More baselines, each of which has to be beaten too."""
    origin: EvaluationReport | None = None
    """Of what the experts were made from, where it is not the first baseline."""

    @property
    def reports(self) -> tuple[EvaluationReport, tuple[EvaluationReport, ...], EvaluationReport]:
        """As the functions that make tables of them take them."""
        return self.base, self.experts, self.merged

    def bar(self, rule: PromotionRule) -> Bar:
        """What the candidate has to pass."""
        return Bar(rule, self.base, self.roles.baseline, self.experts, self.others, self.origin)

    def by_name(self) -> dict[str, dict[str, float]]:
        """Score by checkpoint and task, in the order to show them; the first by `base` and the last
        by `merged` whatever they are called, for programs."""
        names = ["base", *distinct_names([e.reference for e in self.experts]), "merged"]
        named = dict(zip(names, self._in_order(), strict=True))
        merged = named.pop("merged")
        named |= {other.name: other.report for other in self.others if other.name not in named}
        return {
            name: {score.task: score.score for score in report.scores}
            for name, report in (named | {"merged": merged}).items()
        }

    @property
    def of_the_merge(self) -> list[EvaluationReport]:
        """Those of the merge's own checkpoints and its first baseline, each once, in order."""
        first = [self.base, *([self.origin] if self.origin else []), *self.experts, self.merged]
        return list({report.checkpoint_digest: report for report in first}.values())

    def compared(self) -> Compared:
        """What the decision rests on beside the candidate and the rule."""
        return Compared(
            called=self.roles.baseline,
            baseline_digest=self.base.checkpoint_digest,
            others=self.others,
            origin=self.origin,
            expert_digests=tuple(expert.checkpoint_digest for expert in self.experts),
        )

    def odd_answers(self) -> dict[str, tuple[str, ...]]:
        """What went oddly, by checkpoint; only of those where something did."""
        experts = distinct_names([expert.reference for expert in self.experts])
        names = [self.roles.baseline, *experts, self.roles.candidate]
        named = zip(names, self._in_order(), strict=True)
        return {name: odd for name, report in named if (odd := odd_answers(report))}

    def _in_order(self) -> list[EvaluationReport]:
        return [self.base, *self.experts, self.merged]


@dataclass(frozen=True)
class Baseline:
    """A checkpoint that a candidate has to beat, and what it is called."""

    name: str
    source: SourceCheckpoint


@dataclass(frozen=True)
class Inputs:
    """Everything that is evaluated before the merge."""

    baseline: Baseline
    """The first one, which the run falls back to."""
    report: EvaluationReport
    others: tuple[ComparedWith, ...]
    experts: tuple[EvaluationReport, ...]
    origin: EvaluationReport | None
    """Of the recipe's base, where that is not the first baseline."""

    def with_candidate(self, merged: EvaluationReport, roles: Roles) -> Scores:
        """All evaluations, once there is a candidate."""
        return Scores(
            base=self.report,
            experts=self.experts,
            merged=merged,
            roles=roles,
            others=self.others,
            origin=self.origin,
        )
