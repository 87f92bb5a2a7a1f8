"""Halves of a suite share no group of documents, whatever the task."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.evaluation.halves import keep_half
from tasks.processes.model import Problem


class Task:
    """What of an lm-eval task is used."""

    def __init__(self, documents: list[dict[str, Any]]) -> None:
        self._documents = documents

    def has_test_docs(self) -> bool:
        return True

    def test_docs(self) -> list[dict[str, Any]]:
        return self._documents

    @property
    def eval_docs(self) -> list[dict[str, Any]]:
        return self.test_docs()


def half(documents: list[dict[str, Any]], field: str | None, part: str) -> list[dict[str, Any]]:
    task = Task(documents)
    keep_half(task, "quiz", field, 0.5, part, "tasks[0]")
    return task.eval_docs


def test_groups_come_whole_and_tasks_over_the_same_groups_are_split_alike() -> None:
    questions = [{"text": str(i), "source": f"file {i % 20}"} for i in range(200)]
    search, decide = (half(questions, "source", part) for part in ("search", "decide"))
    assert len(search) == len(decide) == 100
    assert [each for each in questions if each in search or each in decide] == questions
    sources = {each["source"] for each in search}
    assert not sources & {each["source"] for each in decide}
    others = [{"line": i, "source": f"file {i}"} for i in range(20)]
    assert {each["source"] for each in half(others, "source", "search")} == sources
    assert half(questions, "source", "search") == search, "no chance in it"


def test_documents_without_groups_are_groups_and_one_alone_cannot_be_split() -> None:
    texts = [{"text": str(i)} for i in range(7)]
    search, decide = (half(texts, None, part) for part in ("search", "decide"))
    assert len(search) + len(decide) == 7
    assert min(len(search), len(decide)) == 3
    with pytest.raises(Problem, match="no document in the half 'search'"):
        half(texts[:1], None, "search")
