"""The text of what was evaluated, read again without a model: the evaluation's documents, wherever
they come from, or none and a word."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from merge_core.records import SourceCheckpoint
from tasks.evaluation.document_texts import Texts, document_texts, file_of_task, ids_in
from tasks.evaluation.evaluate import evaluate_checkpoint
from tasks.evaluation.evaluators import Evaluators
from tasks.evaluation.suite import Suite, load_suite
from tasks.records import EvaluationReport
from tests.support.small_suite import TEXTS, write_suite

MUCH = 1 << 20


def test_a_task_has_a_file_whatever_its_name() -> None:
    assert file_of_task("hellaswag") == "documents/hellaswag.jsonl"
    strange = [file_of_task(name) for name in ("../up", "a/b", "a:b", "ä b")]
    assert len(set(strange)) == 4
    assert all(name.startswith("documents/") and name.count("/") == 1 for name in strange)


def test_a_line_that_is_no_document_is_refused() -> None:
    for line in (b'{"doc_id": "x"}\n', b"[]\n", b"{\n", b"\xff\n", b"[" * 100_000):
        with pytest.raises(ValueError, match=r"line|decode|property|deep"):
            list(ids_in(line))


@pytest.fixture
def evaluators(tmp_path: Path) -> Iterator[Evaluators]:
    with Evaluators(tmp_path / "scratch") as made:
        yield made
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.fixture
def outside(tmp_path: Path) -> Suite:
    """The small suite; one task's data lies elsewhere and is named by its whole path, and code
    beside the task makes documents of it."""
    suite = write_suite(tmp_path / "suite", settings={"batch_size": 16, "limit": 12})
    directory = Path(suite.directory)
    theirs = tmp_path / "theirs" / "texts.jsonl"
    theirs.parent.mkdir()
    (directory / "data" / "texts.jsonl").rename(theirs)
    change_task(directory, dataset_kwargs={"data_files": {"test": str(theirs)}})
    code = (
        "def made(docs):\n"
        "    end = ' \\u2028\\u00e9'\n"
        "    return docs.map(lambda doc: {'text': doc['text'] + end, 'share': 1 / 3})\n"
    )
    (directory / "tasks" / "helper.py").write_text(code)
    file = directory / "tasks" / "bits.yaml"
    file.write_text(file.read_text() + "process_docs: !function helper.made\n")
    return load_suite(directory)


def change_task(directory: Path, **changes: Any) -> None:
    file = directory / "tasks" / "bits.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))


def evaluated(suite: Suite, base: SourceCheckpoint, evaluators: Evaluators, at: Path) -> Any:
    how: dict[str, Any] = {"device": "cpu", "evaluators": evaluators, "isolation": "shared"}
    return evaluate_checkpoint(base, suite, scratch=at / "scratch", **how)


def read(
    suite: Suite, report: EvaluationReport, evaluators: Evaluators, most_bytes: int = MUCH
) -> Texts:
    return document_texts(suite, report, evaluators, "cpu", None, most_bytes)


@pytest.mark.slow
def test_the_evaluations_documents_are_kept_with_their_ids(
    outside: Suite, base: SourceCheckpoint, evaluators: Evaluators, tmp_path: Path
) -> None:
    report = evaluated(outside, base, evaluators, tmp_path)
    texts = read(outside, report, evaluators)  # by the process that is there
    assert texts.left_out == ()
    for score in report.scores:
        content = texts.files[file_of_task(score.task)]
        assert list(ids_in(content)) == [(each, True) for each in score.doc_ids]
    [first, *others] = texts.files["documents/bits.jsonl"].splitlines()
    assert json.loads(first)["doc"] == {"text": TEXTS[0] + " \u2028\u00e9", "share": 1 / 3}
    assert len(others) == 11  # the suite's limit
    # An evaluation that was found in a cache has no process any more.
    evaluators.close()
    assert read(outside, report, evaluators) == texts


@pytest.mark.slow
def test_documents_that_changed_or_are_too_large_are_told_and_not_kept(
    outside: Suite, base: SourceCheckpoint, evaluators: Evaluators, tmp_path: Path
) -> None:
    report = evaluated(outside, base, evaluators, tmp_path)
    few = read(outside, report, evaluators, most_bytes=1500)
    assert list(few.files) == ["documents/quiz.jsonl"] or few.files == {}
    assert few.left_out[0] == (
        "the documents of bits are too large: 1,500 bytes are the most that is kept of a suite and"
        " its documents"
    )
    data = tmp_path / "theirs" / "texts.jsonl"
    data.write_text(data.read_text().replace(TEXTS[3], "another text"))
    changed = read(load_suite(outside.directory), report, evaluators)
    assert list(changed.files) == ["documents/quiz.jsonl"]
    assert changed.left_out == (
        "1 of 12 documents of bits are not in its data any more as they were evaluated",
        "of documents without text the record has the digests",
    )
    data.unlink()
    gone = read(outside, report, evaluators)
    assert gone.files == {}
    assert gone.left_out[0].startswith("the documents cannot be read again: ")


@pytest.mark.slow
def test_a_groups_documents_name_their_task(
    base: SourceCheckpoint, evaluators: Evaluators, tmp_path: Path
) -> None:
    suite = write_suite(tmp_path / "suite", settings={"batch_size": 16, "limit": 3})
    directory = Path(suite.directory)
    for name in ("quiz", "again"):
        config = yaml.safe_load((directory / "tasks" / "quiz.yaml").read_text())
        text = yaml.safe_dump(config | {"task": name, "tag": "both/of them"})
        (directory / "tasks" / f"{name}.yaml").write_text(text)
    file = directory / "suite.yaml"
    entry = {"task": "both/of them", "metric": "acc"}
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"tasks": [entry]}))
    suite = load_suite(directory)
    report = evaluated(suite, base, evaluators, tmp_path)
    [content] = read(suite, report, evaluators).files.values()
    [score] = report.scores
    assert dict(ids_in(content)) == dict.fromkeys(score.doc_ids, True)
    assert {each.partition(":")[0] for each in score.doc_ids} == {"quiz", "again"}
