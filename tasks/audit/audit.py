"""Audit registered versions: look at everything that is recorded of them, and believe nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from merge_core.homes.home import Home
from merge_core.progress import Progress
from tasks.audit import (
    alias,
    approval,
    description,
    files,
    lock,
    parents,
    plan,
    registration,
    run,
    scores,
    signature,
    verdict,
    way,
)
from tasks.audit.evidence import Evidence
from tasks.audit.report import Answers, AuditReport
from tasks.registry.addresses import find_version
from tasks.registry.client import TAG, Registry, open_registry
from tasks.registry.pages import every
from tasks.signing.trust import Trust

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

Check = Callable[[Evidence, Answers], None]
OF_ANY: dict[str, Check] = {
    "way": way.check,
    "description": description.check,
    "files": files.check,
}
"""Checks of a base as well; it has no run of its own."""
OF_MERGES: dict[str, Check] = {
    "plan": plan.check,
    "lock": lock.check,
    "run": run.check,
    "scores": scores.check,
    "decision": verdict.check,
    "record": registration.check,
    "approval": approval.check,
    "parents": parents.check,
    "signature": signature.check,
}


def audit_version(
    home: Home,
    model_uri: str,
    tracking_uri: str,
    progress: Progress | None = None,
    trust: Trust | None = None,
) -> AuditReport:
    """Audit the version of an address.

    Args:
        trust: the keys that signatures are checked by; by default those of the home.

    Raises:
        MergeflowError: there is no such version.
        StepError: MLflow refused.
    """
    with open_registry(tracking_uri) as registry:
        version = find_version(registry, model_uri)
        return _audit(registry, home, version, progress, trust)


def audit_all(
    home: Home, tracking_uri: str, progress: Progress | None = None, trust: Trust | None = None
) -> Iterator[AuditReport]:
    """Audit every version of every model that mergeflow registered, one after the other.

    Args:
        trust: as for `audit_version`; that no key vouches for a base is only told.

    Raises:
        StepError: MLflow refused.
    """
    with open_registry(tracking_uri) as registry:
        for version in _versions(registry):
            found = registry.client.get_model_version(version.name, str(version.version))
            yield _audit(registry, home, found, progress, trust, bases_too=False)


def looked_at(evidence: Evidence, checks: Mapping[str, Check]) -> AuditReport:
    """What some of the checks say of a version."""
    answers = []
    for name, look in checks.items():
        given = Answers(name)
        look(evidence, given)
        answers += given.given
    return AuditReport(model_uri=evidence.address, digest=evidence.digest, answers=tuple(answers))


def _audit(
    registry: Registry,
    home: Home,
    version: ModelVersion,
    progress: Progress | None,
    trust: Trust | None,
    *,
    bases_too: bool = True,
) -> AuditReport:
    with tempfile.TemporaryDirectory(prefix="mergeflow-") as scratch:
        evidence = Evidence(registry, home, version, Path(scratch), progress, trust)
        if evidence.is_merge:
            more = OF_MERGES
        else:
            look = signature.check_base if bases_too else signature.check_base_of_many
            more = {"signature": look}
        checks = OF_ANY | more | {"alias": alias.check}
        return looked_at(evidence, checks)


def _versions(registry: Registry) -> Iterator[ModelVersion]:
    """Versions of models that are ours, by name and number."""
    client = registry.client
    models = every(client.search_registered_models, max_results=500)
    for name in sorted(model.name for model in models if TAG + "model" in model.tags):
        found = every(client.search_model_versions, f"name = '{name}'")
        yield from sorted(found, key=lambda each: int(each.version))
