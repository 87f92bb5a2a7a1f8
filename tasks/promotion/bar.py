"""What a candidate has to pass: a rule, the baselines, and what the rule looks at beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from merge_core.files.digests import digest_of
from tasks.promotion.baselines import ComparedWith
from tasks.promotion.rule import AFTERWARDS, PromotionRule
from tasks.records import EvaluationReport


@dataclass(frozen=True)
class Bar:
    """What one candidate is held to."""

    rule: PromotionRule
    baseline: EvaluationReport
    """The first baseline, which the run falls back to."""
    called: str = "base"
    """What that baseline is called: base, champion or another name, or a reference."""
    experts: Sequence[EvaluationReport] = ()
    """Of the models that were merged."""
    others: Sequence[ComparedWith] = ()
    """Further baselines. The calibrated gate asks for a gain over each."""
    origin: EvaluationReport | None = None
    """Of the checkpoint that the experts were fine-tuned from; None: that is the baseline."""

    @property
    def baselines(self) -> tuple[ComparedWith, ...]:
        """Each with its name, the first one first."""
        return ComparedWith(name=self.called, report=self.baseline), *self.others

    @property
    def number(self) -> int:
        """How many looks a candidate gets, the whole evaluation included."""
        return self.rule.looks or 1

    @property
    def by(self) -> str:
        """Digest of all that decides when its evaluation stops: rule and baselines."""
        compared = [each.report.checkpoint_digest for each in self.baselines]
        return digest_of([self.rule.model_dump(mode="json", exclude=AFTERWARDS), compared])
