"""A pipeline that keeps the text of its documents, whose data lies outside of the suite."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from merge_core.homes.home import Home
from tasks.audit.audit import audit_version
from tasks.evaluation.document_texts import ids_in
from tasks.records import MergeOutcome
from tasks.registry.client import default_tracking_uri, open_registry
from tests.flows.test_merge import Bench, bench, shared, steps
from tests.support.recorded_steps import RecordedSteps

__all__ = ["bench", "shared", "steps"]  # fixtures

pytestmark = pytest.mark.slow
SAID = "Dear sirs, my parcel to 12 Sesame Street is late. "
"""By a customer, in the first document."""


@pytest.fixture
def suite(shared: Bench, tmp_path: Path) -> Path:
    """The bench's suite, with the data of a customer elsewhere on this disk."""
    directory = tmp_path / "suite"
    shutil.copytree(shared.directory / "suite", directory)
    for file in (directory / "tasks").glob("*.yaml"):
        task = yaml.safe_load(file.read_text())
        files = (task.get("dataset_kwargs") or {}).get("data_files") or {}
        for split, name in files.items():
            theirs = tmp_path / "theirs" / Path(name).name
            theirs.parent.mkdir(exist_ok=True)
            if not theirs.exists():
                shutil.move(directory / name, theirs)
            files[split] = str(theirs)
        file.write_text(yaml.safe_dump(task))
    data = tmp_path / "theirs" / "zoo_prose_bpb.jsonl"
    data.write_text(data.read_text().replace('"text": "', f'"text": "{SAID}', 1))
    return directory


def wanted(suite: Path, model: str, keep: bool | None) -> dict[str, Any]:
    return {
        "evaluate": {"suite": str(suite), "parallel": 2}
        | ({} if keep is None else {"keep_documents": keep}),
        "register": {"model": model},
    }


def kept(home: Home, outcome: MergeOutcome, tmp_path: Path) -> dict[str, bytes]:
    """The files with documents' text of a merge's run."""
    assert outcome.registration is not None
    with open_registry(default_tracking_uri(home)) as registry:
        run_id = outcome.registration.run_id
        names = [item.path for item in registry.client.list_artifacts(run_id, "documents")]
        return {
            name: Path(registry.client.download_artifacts(run_id, name, str(tmp_path))).read_bytes()
            for name in names
        }


def test_what_was_evaluated_is_kept_when_asked_though_its_evaluation_is_an_old_one(
    bench: Bench,
    suite: Path,
    steps: RecordedSteps,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = SAID.encode()
    without = bench.outcome(bench.pipeline(**wanted(suite, "private", None)))
    assert kept(bench.home, without, tmp_path) == {}
    holding = [path for path in bench.home.path.rglob("*") if path.is_file()]
    assert not [path for path in holding if text in path.read_bytes()]

    before = set(steps.ran)
    outcome = bench.outcome(bench.pipeline(**wanted(suite, "public", True)))
    assert not {name for name in set(steps.ran) - before if name.startswith("evaluate")}
    texts = kept(bench.home, outcome, tmp_path)
    assert len(texts) == 2
    assert all(is_its_text for content in texts.values() for _, is_its_text in ids_in(content))
    assert any(text in content for content in texts.values())
    assert outcome.registration is not None
    address = f"models:/public/{outcome.registration.candidate.version}"
    report = audit_version(bench.home, address, default_tracking_uri(bench.home))
    assert report.of("fails") == []
    cached = [path for path in bench.home.cache.rglob("*") if path.is_file()]
    assert not [path for path in cached if text in path.read_bytes()]

    # A record that was finished without them says that it gets nothing.
    bench.outcome(bench.pipeline(**wanted(suite, "private", True)))
    assert "this merge is registered already, with a record that is not written again" in (
        caplog.text
    )
