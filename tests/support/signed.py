"""Keys, statements and envelopes of tests, made by the real thing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from merge_core.files.digests import digest_of
from merge_core.homes.home import Home
from merge_core.records import CheckpointManifest, FileDigest, MergeInput, SourceCheckpoint
from tasks.audit.signing import sign_version
from tasks.registry.client import open_registry
from tasks.registry.history import Head
from tasks.registry.lock import Lock, LockedPlace, LockedSource
from tasks.signing.keys import PrivateKey, make_key_pair, private_key
from tasks.signing.statement import Evaluated, Facts, SeenHistory
from tests.support.audited import Audited
from tests.support.registrations import decision, report

SEEN = SeenHistory("0123456789abcdef", Head(4, digest_of("a line")))
SIGNED = ("models:/model/2", "models:/model/3")


def key(home: Home, name: str = "release") -> PrivateKey:
    """A key of a home, made where it is missing."""
    if not (home.keys / f"{name}.pem").exists():
        make_key_pair(home, name)
    return private_key(home, name)


def signed_home(audited: Audited, to: Path) -> Audited:
    """A copy of a home in which both merges are signed by the key `release`."""
    home = audited.copied(to)
    with open_registry(home.registry):
        pass  # the database of a copy leads to the copy from now on
    key(home.home)
    for address in SIGNED:
        sign_version(home.home, address, home.registry, "release")
    return home


def facts(**changes: Any) -> Facts:
    """What a run has on record that merged a base from the Hub and a directory with an adapter."""
    base = _checkpoint("org/base@main")
    merged = _checkpoint("/merged")
    places = (
        LockedPlace(reference="org/base@main", path="/hub", revision="c0ffee", digest=base.digest),
        LockedPlace(reference="./runs/code", path="/runs/code", digest=digest_of("code")),
        LockedPlace(
            reference="models:/zoo@champion", path="/a", version="models:/zoo/4", digest="a"
        ),
    )
    sources = (
        LockedSource(reference="org/base@main", digest=base.digest, places=places[:1]),
        LockedSource(
            reference="./runs/code+models:/zoo@champion",
            digest=digest_of("both"),
            places=places[1:],
        ),
    )
    manifest = CheckpointManifest(
        path=merged.path,
        digest=merged.digest,
        object_id=digest_of("object"),
        files=merged.files,
        method="linear",
        recipe_digest=digest_of("recipe"),
        plan_digest=digest_of("plan"),
        inputs=(
            MergeInput(reference="org/base@main", digest=base.digest, role="base"),
            MergeInput(reference=sources[1].reference, digest=sources[1].digest, role="model"),
        ),
        parameters=7,
        dtype="bfloat16",
        engine="4",
    )
    lock = Lock(
        sources=sources,
        shard_bytes=1000,
        device="cpu",
        threads=2,
        pipeline={},
        beside="/home/somebody",
        suite={"suite": {"name": "zoo"}, "files": {"suite.yaml": digest_of("suite file")}},
        started="2026-01-01T00:00:00+00:00",
        ended="2026-01-01T00:01:00+00:00",
    )
    evaluated = [
        Evaluated(role, report(checkpoint, bits, 0.5), digest_of(role))
        for role, checkpoint, bits in (("base", base, 2.5), ("merged", merged, 2.4))
    ]
    whole = Facts(
        address="models:/zoo/2",
        run_id="0123",
        manifest=manifest,
        recipe="merge_method: linear\n# über\n",
        decision=decision(base, merged.digest, promote=True),
        evaluations=tuple(evaluated),
        files={"decision.json": digest_of("decision"), "lock.json": digest_of("lock")},
        rule={"exceed": 0.0},
        lock=lock,
        environment={"python": "3.11.7", "packages": {"torch": "2.13.0"}, "code_commit": "beef"},
        pipeline="nightly",
        started=lock.started,
        ended=lock.ended,
    )
    return replace(whole, **changes)


def edited(envelope: bytes, **changes: Any) -> bytes:
    """An envelope with other fields, spelled as mergeflow does."""
    values = json.loads(envelope) | changes
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _checkpoint(reference: str) -> SourceCheckpoint:
    files = (FileDigest(name="model.safetensors", size=8, sha256=digest_of(reference)),)
    digest = digest_of(files[0].sha256)
    return SourceCheckpoint(reference=reference, path=reference, digest=digest, files=files)
