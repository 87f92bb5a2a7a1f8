"""Mends of suites whose tasks execute what models write: nothing is executed here."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tasks.evaluation.needs import check_needs
from tasks.evaluation.suite import load_suite
from tests.support.followed_mends import Advice
from tests.support.small_suite import write_suite


def checked(here: Path) -> None:
    """See whether the suite can be evaluated here, with the model."""
    check_needs(load_suite(here / "suite"), here / "model")


def test_code_of_several_tasks(tmp_path: Path, advice: Advice) -> None:
    """What is to be written is copied from the message, and forgets no task that stood there."""
    write_suite(tmp_path / "suite")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    for name in ("bits", "quiz"):
        with (tmp_path / f"suite/tasks/{name}.yaml").open("a") as file:
            file.write("unsafe_code: true\n")
    suite = tmp_path / "suite/suite.yaml"
    for _ in range(2):
        said = advice.refused(checked, tmp_path)
        written = {"settings": yaml.safe_load(said.split("`")[1])}
        suite.write_text(yaml.safe_dump(yaml.safe_load(suite.read_text()) | written))
    advice.helped(checked, tmp_path)
    assert load_suite(tmp_path / "suite").settings.run_code == ("bits", "quiz")
