"""The statement of how a merge was made: in-toto's, with SLSA's provenance as its predicate.

It is computed from the record of the merge's run and from nothing else, so an audit can compute it
again and compare. The one fact of the moment is the head of the model's history. Places and names
of machines are not in it: a statement may go where the weights go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from merge_core.files.sha256sums import SUMS_NAME
from merge_core.findings import printable
from merge_core.records import CheckpointManifest, MergeInput
from tasks.records import Decision, EvaluationReport
from tasks.registry.history import Head
from tasks.registry.lock import Lock
from tasks.signing.envelope import STATEMENT, UnsoundError

NAME = "provenance.intoto.jsonl"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:mergeflow:merge:v1"
BUILDER = "urn:mergeflow:builder:local"
"""mergeflow, on a machine that nobody but the signer vouches for."""
MODEL_DIGEST = "mergeflowModel"
"""Name of a checkpoint's digest: over the names and sha256 of the files that decide what the model
computes, and of no file."""
HISTORY = "history"
_CHAIN = re.compile(r"[0-9a-f]{16}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Evaluated:
    """One evaluation, and the sha256 of the file that has the value of every document."""

    role: str
    report: EvaluationReport
    sha256: str


@dataclass(frozen=True)
class Facts:
    """What the run of a merge has on record."""

    address: str
    """`models:/NAME/VERSION`."""
    run_id: str
    manifest: CheckpointManifest
    recipe: str
    """As it lies with the run."""
    decision: Decision
    evaluations: tuple[Evaluated, ...]
    files: Mapping[str, str]
    """sha256 of the run's files that are named as they are."""
    rule: Mapping[str, Any] | None
    lock: Lock | None
    environment: Mapping[str, Any]
    pipeline: str
    started: str
    ended: str


@dataclass(frozen=True)
class SeenHistory:
    """How far a model's history went when a statement was signed."""

    chain: str
    head: Head


def statement_of(facts: Facts, seen: SeenHistory | None) -> dict[str, Any]:
    """The statement, as JSON."""
    manifest = facts.manifest
    files = {file.name: file.sha256 for file in manifest.files} | {SUMS_NAME: manifest.object_id}
    suite = next(each.report for each in facts.evaluations if each.role == "merged")
    statement = {
        "_type": STATEMENT,
        "subject": [_resource(name, sha256=files[name]) for name in sorted(files)],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "recipe": facts.recipe,
                    "suite": {"name": suite.suite, "digest": suite.suite_digest},
                    "pipeline": facts.pipeline,
                    **({"rule": facts.rule} if facts.rule is not None else {}),
                },
                "internalParameters": _internal(facts),
                "resolvedDependencies": list(_dependencies(facts)),
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": _versions(facts.environment)},
                "metadata": {
                    "invocationId": f"mlflow-run:{facts.run_id}",
                    "startedOn": _utc(facts.started),
                    "finishedOn": _utc(facts.ended),
                },
                "byproducts": list(_byproducts(facts, seen)),
            },
        },
    }
    plain: dict[str, Any] = json.loads(json.dumps(statement))
    return plain


def differences(signed: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """One sentence for each thing that a signed statement says otherwise than the record."""
    before, now = dict(_flat("", signed)), dict(_flat("", expected))
    names = [*now, *(name for name in before if name not in now)]
    return [
        f"{name.removeprefix('predicate.')} is {_short(before.get(name))} in the statement and"
        f" {_short(now.get(name))} in the record"
        for name in names
        if before.get(name) != now.get(name)
    ]


def seen_history(statement: Mapping[str, Any]) -> SeenHistory | None:
    """How far the history went, according to a statement; None where it names none.

    Raises:
        UnsoundError: it says so otherwise than it was written.
    """
    try:
        found = statement["predicate"]["runDetails"]["byproducts"]
        named = [each for each in found if each["name"] == HISTORY]
        if not named:
            return None
        [entry] = named
        chain, lines = entry["annotations"]["chain"], entry["annotations"]["lines"]
        digest = entry["digest"]["sha256"]
        if _CHAIN.fullmatch(chain) and _DIGEST.fullmatch(digest) and type(lines) is int:
            return SeenHistory(chain, Head(lines, digest))
    except (KeyError, TypeError, ValueError):
        pass
    raise UnsoundError("its head of the history cannot be read")


def _internal(facts: Facts) -> dict[str, Any]:
    manifest, lock = facts.manifest, facts.lock
    values: dict[str, Any] = {
        "method": manifest.method,
        "engine": manifest.engine,
        "dtype": manifest.dtype,
        "recipeDigest": manifest.recipe_digest,
        "planDigest": manifest.plan_digest,
    }
    if lock is not None:
        values |= {
            "shardBytes": lock.shard_bytes,
            "device": lock.device,
            "threads": lock.threads,
        }
    return values


def _dependencies(facts: Facts) -> Iterator[dict[str, Any]]:
    """Checkpoints by digest, with their commit where they have one; calibration data; the suite."""
    lock = facts.lock
    if lock is None:
        for item in _inputs(facts.manifest):
            yield _resource(f"{item.role}: {item.reference}", uri=item.reference, model=item.digest)
        return
    roles = {item.reference: item.role for item in _inputs(facts.manifest)}
    for source in lock.sources:
        role = roles.get(source.reference, "model")
        for index, place in enumerate(source.places):
            whole = source.reference if source.has_adapter else None
            notes = {"version": place.version, "written": whole}
            yield _resource(
                f"{'adapter' if index else role}: {place.reference}",
                uri=place.reference,
                model=place.digest,
                commit=place.revision,
                annotations={key: value for key, value in notes.items() if value},
            )
    for measured in lock.calibration:
        yield _resource(
            f"calibration: {measured.reference}",
            sha256=measured.sha256,
            annotations={"measured": measured.digest},
        )
    files = lock.suite.get("files")
    for name, sha256 in sorted(files.items() if isinstance(files, dict) else ()):
        yield _resource(f"suite: {name}", sha256=str(sha256))


def _inputs(manifest: CheckpointManifest) -> list[MergeInput]:
    """Each reference once, in the role in which it comes first."""
    found: dict[str, MergeInput] = {}
    for item in manifest.inputs:
        found.setdefault(item.reference, item)
    return list(found.values())


def _byproducts(facts: Facts, seen: SeenHistory | None) -> Iterator[dict[str, Any]]:
    decision, approval = facts.decision, facts.decision.approval
    said: dict[str, Any] = {
        "verdict": decision.verdict,
        "promote": decision.promote,
        "gain": decision.gain,
        "baselines": list(decision.baselines),
    }
    if approval is not None:
        said["approval"] = {
            "approved": approval.approved,
            "by": approval.by or "nobody",
            "name": "as typed, not checked",
            "at": approval.at,
            "comment": approval.comment,
        }
    for name, sha256 in sorted(facts.files.items()):
        notes = said if name == "decision.json" else None
        yield _resource(name, sha256=sha256, annotations=notes)
    for each in facts.evaluations:
        yield _resource(
            f"evaluation: {each.role}",
            sha256=each.sha256,
            annotations={
                "checkpoint": each.report.checkpoint_digest,
                "suite": each.report.suite_digest,
                "scores": {
                    f"{score.task}/{score.metric}": score.score for score in each.report.scores
                },
            },
        )
    yield _resource(
        "registered version",
        uri=facts.address,
        model=facts.manifest.digest,
        annotations={"object": facts.manifest.object_id},
    )
    if seen is not None:
        yield _resource(
            HISTORY,
            sha256=seen.head.digest,
            annotations={"chain": seen.chain, "lines": seen.head.number},
        )


def _resource(
    name: str,
    *,
    uri: str | None = None,
    sha256: str | None = None,
    model: str | None = None,
    commit: str | None = None,
    annotations: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A resource descriptor of in-toto."""
    digests = {"sha256": sha256, MODEL_DIGEST: model, "gitCommit": commit}
    found: dict[str, Any] = {"name": name}
    if uri:
        found["uri"] = uri
    found["digest"] = {kind: value for kind, value in digests.items() if value}
    if annotations:
        found["annotations"] = dict(annotations)
    return found


def _versions(environment: Mapping[str, Any]) -> dict[str, str]:
    """Of Python, of packages and of the code, as the run noted them."""
    packages = environment.get("packages")
    named = {**(packages if isinstance(packages, dict) else {})}
    for key, name in (("python", "python"), ("code_commit", "mergeflow commit")):
        if environment.get(key):
            named[name] = environment[key]
    return {str(name): str(named[name]) for name in sorted(named)}


def _utc(moment: str) -> str:
    """A moment as SLSA writes it."""
    return moment.replace("+00:00", "Z")


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every value with the way to it; members of a list by their names, where they have one."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), inner)
    elif isinstance(value, list) and value:
        names = [each.get("name") if isinstance(each, Mapping) else None for each in value]
        for index, (name, inner) in enumerate(zip(names, value, strict=True)):
            known = isinstance(name, str) and names.count(name) == 1
            yield from _flat(f"{path}[{name if known else index}]", inner)
    else:
        yield path, value


def _short(value: Any) -> str:
    return "missing" if value is None else printable(value, 80)
