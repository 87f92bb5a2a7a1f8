"""Which version keeps the alias when a merge is not promoted.

The run's own answer is the base. The alias is another matter: an experiment that failed says
nothing against the version that serves, if that one passed against the same base and suite, or a
person approved it. Only a version that nothing speaks for makes way for the base.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tasks.registry.client import TAG, Registry
from tasks.registry.version_tags import approver_of, fact_of
from tasks.registry.versions import champion_version
from tasks.roles import MERGE, Roles

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

FallBackTo = Literal["champion", "base"]


@dataclass(frozen=True)
class Holder:
    """The version that keeps the alias, and what speaks for it."""

    version: ModelVersion
    why: str


def holder_that_stays(
    registry: Registry,
    name: str,
    base_digest: str,
    suite_digest: str,
    to: FallBackTo,
    roles: Roles = MERGE,
) -> Holder | None:
    """The champion, if something speaks for it; None when the base is to have the alias.

    Args:
        base_digest: of the baseline that the merge was compared with.
        suite_digest: of the suite that it was evaluated on.
        to: the pipeline's `fall_back_to`; `base` gives the base the alias in any case.
        roles: the names of candidate and baseline.
    """
    number = champion_version(registry, name)
    if to == "base" or number is None:
        return None
    version = registry.client.get_model_version(name, number)
    approver = approver_of(version)
    if approver is not None:
        return Holder(version, f"{approver} approved it")
    passed = (
        version.tags.get(TAG + "verdict") == "promoted"
        and fact_of(registry, version, "base_digest") == base_digest
    )
    if passed and suite_digest in _suites_of(registry, version):
        return Holder(version, f"it passed against this {roles.baseline} and this suite")
    return None


def _suites_of(registry: Registry, version: ModelVersion) -> set[str]:
    """Digests of the suites that a version's verdict rests on; where neither it nor its run has
    the tag, those of the evaluations that its run recorded."""
    tagged = fact_of(registry, version, "suite_digest")
    if tagged:
        return {tagged}
    run_id = version.tags.get(TAG + "run_id")
    if not run_id:
        return set()
    experiment = registry.client.get_run(run_id).info.experiment_id
    children = registry.client.search_runs(
        [experiment], f"tags.`mlflow.parentRunId` = '{run_id}' and tags.`{TAG}kind` = 'evaluation'"
    )
    return {str(run.data.tags[TAG + "suite_digest"]) for run in children}
