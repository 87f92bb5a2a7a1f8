"""What a decision was made by: kept with its run, so that it can be made again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from merge_core.records import Record
from tasks.promotion.baselines import ComparedWith
from tasks.promotion.rule import PromotionRule
from tasks.records import EvaluationReport

RULE_NAME = "rule.json"
"""The file of a run that holds it."""


class Named(Record):
    """One more baseline."""

    name: str
    digest: str


class DecidedBy(Record):
    """The rule, and which evaluation was what to it; the reports themselves are kept elsewhere."""

    rule: dict[str, Any]
    called: str = "base"
    """What the first baseline is called."""
    experts: tuple[str, ...] = ()
    """Digests, in order."""
    others: tuple[Named, ...] = ()
    origin: str | None = None

    @property
    def promotion_rule(self) -> PromotionRule:
        """The rule, read again.

        Raises:
            ValidationError: it is none.
        """
        return PromotionRule.model_validate(self.rule)


def decided_by(
    rule: PromotionRule,
    called: str,
    experts: Sequence[EvaluationReport],
    others: Sequence[ComparedWith],
    origin: EvaluationReport | None,
) -> DecidedBy:
    """What `decide` was given, with digests in place of reports."""
    return DecidedBy(
        rule=rule.model_dump(mode="json"),
        called=called,
        experts=tuple(expert.checkpoint_digest for expert in experts),
        others=tuple(
            Named(name=other.name, digest=other.report.checkpoint_digest) for other in others
        ),
        origin=origin.checkpoint_digest if origin else None,
    )
