"""Audit registered versions: look at everything that is recorded of them, and believe nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from merge_core.errors import CheckpointError, one_line
from merge_core.homes.home import Home
from merge_core.progress import Progress
from tasks.audit import (
    alias,
    approval,
    artifacts,
    description,
    files,
    lock,
    parents,
    plan,
    registration,
    run,
    scores,
    shown,
    signature,
    verdict,
    way,
)
from tasks.audit.evidence import Evidence
from tasks.audit.report import Answer, Answers, AuditReport
from tasks.registry.addresses import find_version
from tasks.registry.client import TAG, Registry, open_registry
from tasks.registry.faults import is_network_failure
from tasks.registry.history import models_with_history
from tasks.registry.memory import canonical
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
    "artifacts": artifacts.check,
    "shown": shown.check,
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
        yield from _models_that_are_gone(registry, home)


def looked_at(evidence: Evidence, checks: Mapping[str, Check]) -> AuditReport:
    """What some of the checks say of a version. A record that nobody can read fails: who could
    write such a one would else be rid of every check that reads it."""
    from mlflow.exceptions import MlflowException

    answers: list[Answer] = []
    for name, look in checks.items():
        given = Answers(name)
        try:
            look(evidence, given)
        except CheckpointError as error:
            given.fails(error.what)
        except MlflowException as error:
            if is_network_failure(error):
                raise
            _say_once(f"MLflow cannot show it: {one_line(error)}", given, answers)
        except (ValueError, OverflowError) as error:
            _say_once(f"a value is there that nothing writes: {one_line(error)}", given, answers)
        answers += given.given
    return AuditReport(model_uri=evidence.address, digest=evidence.digest, answers=tuple(answers))


def _say_once(what: str, given: Answers, before: Sequence[Answer]) -> None:
    """Say once what several checks meet."""
    if any(each.what == what for each in before):
        given.unknown(f"not looked at: {what}")
    else:
        given.fails(what)


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
            more = {"shown": shown.check_base, "signature": look}
        checks = OF_ANY | more | {"alias": alias.check}
        return looked_at(evidence, checks)


def _models_that_are_gone(registry: Registry, home: Home) -> Iterator[AuditReport]:
    """Models that had an alias by this home's doing, and that the registry has no more."""
    known = models_with_history(home, canonical(home, registry.tracking_uri))
    here = {model.name for model in every(registry.client.search_registered_models)}
    for name in sorted(known.keys() - here):
        given = Answers("alias")
        given.fails(
            f"the model is gone from the registry, deleted or renamed; {known[name].name} has its"
            " history (move that out of the home where it was meant)"
        )
        yield AuditReport(model_uri=f"models:/{name}", digest=None, answers=tuple(given.given))


def _versions(registry: Registry) -> Iterator[ModelVersion]:
    """Versions of models that are ours, by name and number. One tag of ours is enough: others may
    have been taken off, and somebody may have made the model before."""
    client = registry.client
    for model in sorted(
        every(client.search_registered_models, max_results=500), key=lambda each: str(each.name)
    ):
        found = list(every(client.search_model_versions, f"name = '{model.name}'"))
        if any(tag.startswith(TAG) for each in (model, *found) for tag in each.tags):
            yield from sorted(found, key=lambda each: int(each.version))
