"""A pipeline that signs what it registers, on real models and by real steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prefect.client.schemas.objects import State

from tasks.audit.audit import audit_version
from tasks.lineage.text import render_lineage
from tasks.lineage.trace import lineage
from tasks.records import MergeOutcome
from tasks.registry.client import default_tracking_uri, open_registry
from tasks.signing.keys import PASSPHRASE, make_key_pair
from tests.flows.test_merge import ALL_CACHED, Bench, bench, promoted, shared, steps
from tests.support.recorded_steps import RecordedSteps

__all__ = ["bench", "promoted", "shared", "steps"]  # fixtures

pytestmark = pytest.mark.slow
SIGNED = {"model": "zoo", "sign": "release"}


def what_failed(state: State[MergeOutcome]) -> str:
    assert state.is_failed()
    return str(state.message)


def test_a_key_that_cannot_be_used_ends_the_run_before_any_work(
    bench: Bench, steps: RecordedSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.pipeline(register={"model": "zoo", "sign": "locked"})
    assert "there is no key 'locked'" in what_failed(bench.run(path))
    make_key_pair(bench.home, "locked", "open sesame")
    assert "this key has a passphrase" in what_failed(bench.run(path))
    monkeypatch.setenv(PASSPHRASE, "open sesame")
    (bench.home.keys / "locked.pem").chmod(0o644)
    assert "others than its owner" in what_failed(bench.run(path))
    assert steps.all == []


def test_what_is_registered_is_signed_and_the_second_time_it_is_found_so(
    bench: Bench, promoted: MergeOutcome, steps: RecordedSteps, caplog: pytest.LogCaptureFixture
) -> None:
    """The merge was registered before by a pipeline without a key: its record is completed."""
    key = make_key_pair(bench.home, "release")
    path = bench.pipeline(register=SIGNED)
    outcome: MergeOutcome = bench.outcome(path)
    assert steps.ran == ALL_CACHED | {"sign zoo"}
    registration = outcome.registration
    assert registration is not None
    address = f"models:/zoo/{registration.candidate.version}"
    uri = default_tracking_uri(bench.home)
    report = audit_version(bench.home, address, uri)
    assert report.of("fails") == []
    assert any(each.what.startswith("signed by release") for each in report.of("holds"))
    assert f"signed by key {key.key_id[:12]}" in render_lineage(lineage(address, uri))
    before = sorted(path.stat().st_mtime_ns for path in bench.home.signatures.rglob("*"))
    bench.outcome(path)
    assert before == sorted(path.stat().st_mtime_ns for path in bench.home.signatures.rglob("*"))
    assert audit_version(bench.home, address, uri).holds


def test_what_fell_back_is_signed_too_and_its_lock_says_who_was_to_sign(bench: Bench) -> None:
    if not (bench.home.keys / "release.pem").exists():
        make_key_pair(bench.home, "release")
    outcome = bench.outcome(
        bench.pipeline(weight=4.0, register=SIGNED, promote={"max_regression": 0.0})
    )
    assert outcome.state == "FellBack"
    registration = outcome.registration
    assert registration is not None
    uri = default_tracking_uri(bench.home)
    report = audit_version(bench.home, f"models:/zoo/{registration.candidate.version}", uri)
    assert report.of("fails") == []
    with open_registry(uri) as registry:
        where = registry.client.download_artifacts(registration.run_id, "lock.json")
    assert json.loads(Path(where).read_text())["pipeline"]["register"]["sign"] == "release"
