"""The tags of a registered version: five at most, the verdict first. All else is said by its run.

A version of before has a score of tags. It keeps them until a run is registered on it anew: then
they would tell of another run than the one that the version names, and are taken off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge_core.text.plain import plain, plain_log
from tasks.records import Approval, Decision
from tasks.registry.absent import none_if_absent
from tasks.registry.client import TAG, Registry

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

OF_MERGES = ("verdict", "digest", "run_id", "pipeline", "approval")
"""On the version of a merge; `approval` where a person was asked."""
_APPROVED, TYPED = "approved by ", ", as typed"
_GONE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")

_log = plain_log("mergeflow")


def tags_of_merge(digest: str, decision: Decision, run_id: str, pipeline: str) -> dict[str, str]:
    """The tags of the version of a merge, without their prefix."""
    asked = {"approval": approval_said(decision.approval)} if decision.approval else {}
    own = {"verdict": decision.verdict, "digest": digest, "run_id": run_id, "pipeline": pipeline}
    return {**own, **asked}


def approval_said(approval: Approval) -> str:
    """A person's answer in one tag. The name is the text that was typed."""
    if not approval.by:
        return "not answered"
    return f"{'approved' if approval.approved else 'declined'} by {plain(approval.by)}{TYPED}"


def approver_of(version: ModelVersion) -> str | None:
    """Who approved of a version, as typed; None where nobody did."""
    said = str(version.tags.get(TAG + "approval", ""))
    if said == "approved":  # as versions said it that have a tag for the name
        return str(version.tags.get(TAG + "approval_by", "somebody"))
    return said.removeprefix(_APPROVED).removesuffix(TYPED) if said.startswith(_APPROVED) else None


def fact_of(registry: Registry, version: ModelVersion, key: str) -> str | None:
    """What a version, or else the run that it names, says of how it was made."""
    own = version.tags.get(TAG + key)
    if own:
        return str(own)
    run = run_of(registry, version)
    return (run.data.tags.get(TAG + key) or None) if run is not None else None


def run_of(registry: Registry, version: ModelVersion) -> Run | None:
    """The run that a version names; None where it names none, or nothing is left of it."""
    run_id = version.tags.get(TAG + "run_id")
    if not run_id:
        return None
    return none_if_absent(registry.client.get_run, run_id, or_said=_GONE)


def keep_on_run(registry: Registry, version: ModelVersion, run_id: str) -> None:
    """Let a run of before say what only its version's tags said, before they are taken off."""
    said = registry.client.get_run(run_id).data.tags
    for key in _former(version):
        if key not in said:
            registry.client.set_tag(run_id, key, version.tags[key])


def _former(version: ModelVersion) -> list[str]:
    return [
        key
        for key in sorted(version.tags)
        if key.startswith(TAG) and key.removeprefix(TAG) not in OF_MERGES
    ]


def take_off_former_tags(registry: Registry, version: ModelVersion) -> None:
    """Leave a merge's version the tags of today. Of an approval that stays, the name goes on."""
    former = _former(version)
    if not former:
        return
    name, number, approver = version.name, str(version.version), approver_of(version)
    if version.tags.get(TAG + "approval") == "approved":
        said = f"{_APPROVED}{approver}{TYPED}"
        registry.client.set_model_version_tag(name, number, TAG + "approval", said)
    for key in former:
        registry.client.delete_model_version_tag(name, number, key)
    _log.info(
        "models:/%s/%s: what %d of its tags said is on its run now, which the version names",
        name,
        number,
        len(former),
    )
