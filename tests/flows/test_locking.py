"""What a run notes in the lock of its merge, and what it says of references that lead elsewhere."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.settings.pipeline import Pipeline
from flows.steps.locking import lock_of, warn_of_changes
from merge_core.homes.home import Home
from merge_core.records import SourceCheckpoint
from merge_core.runtime.machine import machine_name
from tasks.evaluation.suite import SHIPPED, load_suite, suite_digest
from tasks.registry.lock import Lock, LockedSource
from tests.support.audited import Audited

STARTED = datetime(2026, 1, 1, tzinfo=UTC)


def pipeline(**register: Any) -> Pipeline:
    return Pipeline.model_validate(
        {
            "name": "nightly",
            "recipe": {"merge_method": "linear", "models": [{"model": "base"}, {"model": "tuned"}]},
            "evaluate": {"suite": "starter"},
            "register": {"model": "model", **register},
            "execution": {"scale_out": {"dask": "tcp://cluster:8786"}, "shard_size": "1MB"},
        }
    )


def source(reference: str, digest: str) -> SourceCheckpoint:
    return SourceCheckpoint(reference=reference, path=f"/{reference}", digest=digest, files=())


def locked(of: Pipeline) -> Lock:
    sources = [LockedSource.of(source(name, name * 3)) for name in ("base", "tuned", "untaken")]
    suite = load_suite(SHIPPED / "starter")
    return lock_of(of, sources, {}, suite, Path("/recipes"), STARTED)


def test_a_lock_has_what_recipe_rule_and_manifest_leave_open_and_no_names_of_machines() -> None:
    lock = locked(pipeline(tracking_uri="http://server:5000"))
    assert [each.reference for each in lock.sources] == ["base", "tuned"]
    assert (lock.shard_bytes, lock.beside) == (1_000_000, "/recipes")
    assert lock.suite_digest == suite_digest(load_suite(SHIPPED / "starter"))
    assert lock.pipeline["recipe"]["seed"] == 0
    assert lock.pipeline["evaluate"]["experts"] is True
    assert "promote" not in lock.pipeline
    text = lock.model_dump_json()
    assert not [name for name in ("server:5000", "cluster:8786", machine_name()) if name in text]
    assert lock.started == "2026-01-01T00:00:00+00:00"


def test_who_ran_it_is_noted_where_the_pipeline_asks_for_it() -> None:
    assert locked(pipeline()).by is None
    assert (locked(pipeline(note_user=True)).by or "").endswith(f"@{machine_name()}")


def test_a_reference_that_leads_to_another_checkpoint_is_told(
    audited: Audited, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    of = pipeline(tracking_uri=audited.registry)
    warn_of_changes(of, audited.home, {"tuned": source("tuned", "f" * 64)})
    [record] = [each for each in caplog.records if "another checkpoint" in each.getMessage()]
    assert record.getMessage().startswith(
        "warning: tuned is another checkpoint than in the last run of this pipeline: ffffffffffff"
    )


def test_a_registry_that_is_not_there_yet_has_nothing_to_compare(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_changes(pipeline(), home, {"tuned": source("tuned", "f" * 64)})
    assert caplog.records == []
    assert not home.mlflow.exists()
