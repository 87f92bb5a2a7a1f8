"""Everything that is recorded about one merge and the decision on it, before it is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from merge_core.files.digests import digest_of
from merge_core.records import CheckpointManifest, SourceCheckpoint
from tasks.records import Decision, EvaluationReport
from tasks.reports.decision import column_names, decision_markdown
from tasks.roles import MERGE, Roles


@dataclass(frozen=True)
class MergeFacts:
    """Everything that is recorded about one merge and the decision on it."""

    model_name: str
    recipe_yaml: str
    recipe_digest: str
    manifest: CheckpointManifest
    base: SourceCheckpoint
    models: Sequence[SourceCheckpoint]
    reports: Sequence[EvaluationReport]
    decision: Decision
    compatibility: BaseModel | None = None
    profile: BaseModel | None = None
    pipeline_name: str | None = None
    prefect_run: Mapping[str, Any] | None = None
    artifacts: Mapping[str, str | bytes] = field(default_factory=dict)
    roles: Roles = MERGE
    warnings: Sequence[str] = ()
    """What the recipe was warned of before the merge."""

    @property
    def key(self) -> str:
        """Identifies the registration: the same merge with the same evidence and decision."""
        return digest_of(
            {
                "model": self.model_name,
                "plan": self.manifest.plan_digest,
                "merged": self.manifest.digest,
                "base": self.base.digest,
                # Without empty fields: a key stays the same when records get new ones.
                "reports": [r.model_dump(mode="json", exclude_none=True) for r in self.reports],
                "decision": self.decision.model_dump(mode="json", exclude_none=True),
                "pipeline": self.pipeline_name,
            }
        )

    @property
    def suite_digest(self) -> str:
        """Of the suite that the merged checkpoint was evaluated on."""
        [digest] = {
            report.suite_digest
            for report in self.reports
            if report.checkpoint_digest == self.manifest.digest
        }
        return digest

    def decision_page(self) -> str:
        """The decision with its reasons and everyone's scores side by side, as markdown."""
        reports = {report.checkpoint_digest: report for report in self.reports}
        merged = reports.pop(self.manifest.digest)
        base = reports.pop(self.base.digest, merged)
        return decision_markdown(
            self.decision,
            base,
            list(reports.values()),
            merged,
            self.roles,
            name=self.pipeline_name,
            warnings=self.warnings,
        )

    def role(self, digest: str) -> str:
        """`merged`, `base`, or `expert/NAME` with as short a name as tells the experts apart."""
        if digest == self.manifest.digest:
            return "merged"
        if digest == self.base.digest:
            return "base"
        known = {self.manifest.digest, self.base.digest}
        experts = [report for report in self.reports if report.checkpoint_digest not in known]
        names = [slug(name) for name in column_names(experts)]
        for expert, name in zip(experts, names, strict=True):
            if expert.checkpoint_digest == digest:
                return f"expert/{name if names.count(name) == 1 else digest[:12]}"
        raise KeyError(digest)


def slug(name: str) -> str:
    """A name MLflow takes as part of a key."""
    return re.sub(r"[^A-Za-z0-9_.\- ]+", "_", name)
