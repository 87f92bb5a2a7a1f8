"""The way from the version to a LoggedModel: it loads the model of its own digest."""

from __future__ import annotations

import re

from tasks.audit.evidence import Evidence
from tasks.audit.report import Answers
from tasks.registry.client import TAG

_OF_ANOTHER = re.compile(r"models:/[^/]+/\d+")


def check(evidence: Evidence, answers: Answers) -> None:
    """The version's source, its model's digest and place, and what it is said to load."""
    model, version = evidence.model, evidence.version
    if evidence.digest is None:
        answers.fails("the version has no digest: mergeflow did not register it, or it was removed")
        return
    if model is None and _OF_ANOTHER.fullmatch(str(version.source)):
        answers.fails(
            f"the version is a copy of {version.source} that mergeflow did not make: audit that one"
        )
        return
    if model is None:
        answers.fails(f"the model that the version leads to is gone: {version.source}")
        return
    answers.same(
        "the model's digest", model.tags.get(TAG + "digest"), evidence.digest, "the version"
    )
    loads = evidence.registry.client.get_model_version_download_uri(
        version.name, str(version.version)
    )
    places = {f"models:/{model.model_id}", str(model.artifact_location)}
    if {str(version.source), loads} - places:
        answers.fails(f"the version loads {loads}, which is not its model's place")
    if str(version.status) != "READY":
        answers.fails(f"the version is {version.status}, and not ready")
    if str(model.status) != "READY":
        answers.fails(f"the model is {model.status}, and not ready")
    if not answers.failed:
        answers.holds("the version leads to the model of its digest, and loads what that holds")
