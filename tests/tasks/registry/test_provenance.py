"""A later run says nothing else of how an older version was made, or of where its sources were
(`make thorough`)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from merge_core.homes.home import Home
from tasks.audit.audit import audit_version
from tasks.evaluation.suite import SHIPPED
from tasks.registry.client import default_tracking_uri
from tests.support.locked_merges import registered_merge
from tests.support.registrations import empty_registry
from tests.support.registry_contents import client
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama

pytestmark = pytest.mark.slow


def linear(base: str, tuned: str) -> dict[str, Any]:
    return {
        "merge_method": "linear",
        "models": [
            {"model": base, "parameters": {"weight": 1.0}},
            {"model": tuned, "parameters": {"weight": 0.5}},
        ],
    }


def test_a_later_run_rewrites_no_provenance(
    home: Home,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    quick_database: None,
) -> None:
    registry = empty_registry(home.mlflow, tmp_path_factory.getbasetemp() / "template.db")
    home.path.chmod(0o700)
    write_llama(tmp_path / "in" / "base", base_weights())
    write_llama(tmp_path / "in" / "tuned", fine_tuned(base_weights(), 1))
    shutil.copytree(tmp_path / "in", tmp_path / "copies")
    suite, mlflow = SHIPPED / "starter", client(registry)

    def register(recipe: dict[str, Any], **how: Any) -> tuple[str, dict[str, str]]:
        uri = registered_merge(home, suite, recipe, beside=tmp_path / "in", **how)
        return uri, mlflow.get_model_version("model", uri.rpartition("/")[2]).tags

    def places() -> list[str]:
        models = mlflow.search_logged_models(["1"])
        return sorted(model.tags["mergeflow.path"] for model in models)

    def run_tags(of_version: dict[str, str]) -> dict[str, str]:
        return dict(mlflow.get_run(of_version["mergeflow.run_id"]).data.tags)

    first, tags = register(linear("base", "tuned"))
    before = run_tags(tags)
    where = places()
    # The same weights, of copies under other names: another object and another version.
    second, others = register(linear("../copies/base", "../copies/tuned"))
    third, _ = register(linear("../copies/base", "./tuned"), promote=False)
    assert len({first, second, third}) == 3
    assert others["mergeflow.digest"] == tags["mergeflow.digest"]
    assert run_tags(others)["mergeflow.object_id"] != before["mergeflow.object_id"]
    assert mlflow.get_model_version("model", first.rpartition("/")[2]).tags == tags
    assert run_tags(tags) == before
    assert places() == where
    for uri in (first, second, third):
        report = audit_version(home, uri, default_tracking_uri(home))
        assert report.holds, report.of("fails")
    # The same run again is the same version.
    assert register(linear("base", "tuned"))[0] == first

    # Only when the first place is not what it was does the record follow.
    base = tmp_path / "in" / "base"
    (base / "config.json").chmod(0o644)
    with (base / "config.json").open("a") as file:
        file.write(" ")
    os.utime(base / "config.json")
    register(linear("../copies/base", "../copies/tuned"))
    assert set(places()) - set(where) == {os.path.normpath(tmp_path / "copies" / "base")}
