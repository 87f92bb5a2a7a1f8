"""Which versions contain a checkpoint, and what becomes of deleted runs, at real registries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.cli import program
from merge_core.errors import MergeflowError
from tasks.lineage.contains import versions_that_contain
from tasks.lineage.html import lineage_html
from tasks.lineage.mermaid import lineage_mermaid
from tasks.lineage.text import render_lineage
from tasks.lineage.trace import lineage
from tasks.registry.register import register_merge
from tests.support.registrations import registration, variant
from tests.support.registry_contents import Registered, client


@pytest.fixture
def stacked(tiny_zoo: Any, merged: Path, after_promotion: str, tmp_path: Path) -> dict[str, Any]:
    """A second merge, of the first one's result, under another name."""
    again = variant(merged, tmp_path / "first", "merged")
    result = variant(merged, tmp_path / "second", "second")
    arguments = registration(after_promotion, tiny_zoo.base, [again], result, name="stacked")
    register_merge(**arguments)
    return arguments


def test_a_checkpoint_is_found_in_every_version_that_contains_it(
    stacked: dict[str, Any], promoted: Registered, after_promotion: str
) -> None:
    first = promoted.result.candidate.digest
    found = versions_that_contain(first, after_promotion)
    assert {(each.model_uri, each.merges_between, each.aliases) for each in found.versions} == {
        ("models:/zoo/2", 0, ("champion",)),
        ("models:/stacked/2", 1, ("champion",)),
    }
    assert found.digest == first
    expert = promoted.arguments["models"][0].digest
    between = {
        each.model_uri: each.merges_between
        for each in versions_that_contain(expert[:12], after_promotion).versions
    }
    assert between == {"models:/zoo/2": 1, "models:/stacked/2": 2}
    by_address = versions_that_contain("models:/zoo@champion", after_promotion)
    assert by_address.versions == found.versions


@pytest.mark.slow
def test_a_merge_that_is_no_version_is_counted(
    stacked: dict[str, Any], promoted: Registered, after_promotion: str
) -> None:
    client(after_promotion).delete_model_version("stacked", "2")
    found = versions_that_contain(promoted.result.candidate.digest, after_promotion)
    assert [each.model_uri for each in found.versions] == ["models:/zoo/2"]
    assert found.unregistered == 1


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("abc", "at least 12 digits"),
        ("0" * 64, "no merge and no version"),
        ("models:/zoo/9", "versions here: 1, 2"),
    ],
)
def test_what_is_no_checkpoint_is_told(promoted: Registered, wanted: str, message: str) -> None:
    with pytest.raises(MergeflowError) as refused:
        versions_that_contain(wanted, promoted.registry)
    assert refused.match(message)


def test_a_deleted_run_is_shown_and_not_followed(
    stacked: dict[str, Any], promoted: Registered, after_promotion: str
) -> None:
    api, first = client(after_promotion), promoted.result
    api.delete_run(first.run_id)
    tree = lineage("models:/stacked@champion", after_promotion)
    merge = tree.by_digest[first.candidate.digest].merge
    assert merge is not None
    assert (merge.run_id, merge.deleted) == (first.run_id, True)
    assert tree.by_digest[first.candidate.digest].inputs == ()
    text = render_lineage(tree)
    assert f"run {first.run_id}, which was deleted in MLflow" in text
    assert "deleted" in lineage_html(tree)
    assert "#40;its run was deleted#41;" in lineage_mermaid(tree)
    expert = promoted.arguments["models"][1].digest
    assert versions_that_contain(first.candidate.digest, after_promotion).versions
    with pytest.raises(MergeflowError):
        versions_that_contain(expert, after_promotion)
    own = lineage("models:/zoo@champion", after_promotion).top.merge
    assert own is not None
    assert own.deleted


@pytest.mark.slow
def test_another_run_of_the_same_merge_takes_the_place_of_a_deleted_one(
    tiny_zoo: Any, promoted: Registered, after_promotion: str
) -> None:
    arguments = promoted.arguments | {"tracking_uri": after_promotion, "pipeline_name": "other"}
    other = register_merge(**arguments)
    client(after_promotion).delete_run(other.run_id)
    merge = lineage("models:/zoo@champion", after_promotion).top.merge
    assert merge is not None
    assert (merge.run_id, merge.deleted) == (promoted.result.run_id, False)


def test_dates_are_those_of_the_run(promoted: Registered) -> None:
    run = client(promoted.registry).get_run(promoted.result.run_id)
    tree = lineage("models:/zoo@champion", promoted.registry)
    assert tree.top.merge is not None
    assert tree.top.merge.started is not None
    assert f"recorded {tree.top.merge.started} to {tree.top.merge.ended}" in render_lineage(tree)
    assert run.info.start_time // 1000 == _seconds(tree.top.merge.started)


def test_the_command_prints_each_form(
    promoted: Registered, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", promoted.registry)
    digest = promoted.result.candidate.digest
    for options, begins in (
        ([], "models:/zoo/2 @champion"),
        (["--mermaid"], "flowchart LR"),
        (["--html"], "<!doctype html>"),
        (["--json"], "{"),
        (["--contains"], f"checkpoint {digest}"),
    ):
        assert program.run(["lineage", "models:/zoo@champion", *options]) == 0
        assert capsys.readouterr().out.startswith(begins)
    assert program.run(["lineage", "models:/zoo@champion", "--html", "--json"]) == 2
    assert "exclude each other" in capsys.readouterr().err


def _seconds(text: str) -> int:
    from datetime import datetime

    return int(datetime.fromisoformat(text).timestamp())
