"""Whose documents are kept in the record: those that a suite ships, or that are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tasks.evaluation.kept_documents import kept_documents, kept_name
from tasks.evaluation.suite import Suite, load_suite
from tests.support.small_suite import TEXTS, write_suite

OWN = {"suite/tasks/bits.yaml", "suite/tasks/quiz.yaml"}
DATA = {"suite/data/texts.jsonl", "suite/data/questions.jsonl"}


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return write_suite(tmp_path / "suite")


def with_data_elsewhere(suite: Suite) -> Suite:
    """The documents of one task lie beside the suite's directory, as a customer's may."""
    directory = Path(suite.directory)
    (directory / "data" / "texts.jsonl").rename(directory.parent / "theirs.jsonl")
    file = directory / "tasks" / "bits.yaml"
    task = yaml.safe_load(file.read_text())
    task["dataset_kwargs"]["data_files"]["test"] = "../theirs.jsonl"
    file.write_text(yaml.safe_dump(task))
    return load_suite(directory)


def test_what_a_suite_ships_is_kept(suite: Suite) -> None:
    kept = kept_documents(suite, None)
    assert set(kept.files) >= OWN | DATA
    assert TEXTS[0].encode() in kept.files["suite/data/texts.jsonl"]
    assert kept.left_out == ()


def test_nothing_is_kept_that_is_refused(suite: Suite) -> None:
    assert kept_documents(suite, False).files == {}


def test_what_lies_elsewhere_is_kept_only_when_asked(suite: Suite) -> None:
    suite = with_data_elsewhere(suite)
    assert kept_documents(suite, None).files == {}
    asked = kept_documents(suite, True).files
    assert TEXTS[0].encode() in asked["suite/up/theirs.jsonl"]


def test_a_link_that_leads_out_of_the_suite_is_no_part_of_it(suite: Suite, tmp_path: Path) -> None:
    data = Path(suite.directory) / "data" / "texts.jsonl"
    data.rename(tmp_path / "theirs.jsonl")
    data.symlink_to(tmp_path / "theirs.jsonl")
    assert kept_documents(suite, None).files == {}


def test_a_suite_whose_documents_are_no_files_keeps_those_that_are_when_asked(suite: Suite) -> None:
    tasks = [*suite.tasks, suite.tasks[0].model_copy(update={"task": "hellaswag"})]
    mixed = suite.model_copy(update={"tasks": tuple(tasks)})
    assert kept_documents(mixed, None).files == {}
    asked = kept_documents(mixed, True)
    assert set(asked.files) >= DATA
    assert asked.left_out == ()


def test_a_name_leads_nowhere_but_below_the_record() -> None:
    assert kept_name("../../data/x.jsonl") == "suite/up/up/data/x.jsonl"
    assert kept_name("tasks/a.yaml") == "suite/tasks/a.yaml"
