"""The zoo's text: domains that are split cleanly, and questions with one true answer."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from flows.model_zoo import Zoo
from flows.model_zoo.settings import DEMO, TINY
from flows.model_zoo.suite import CHOICES, CONTINUATION, WINDOW, choose_documents
from flows.model_zoo.text import Document, Domain, line_pairs, read_domains, windows
from tasks.evaluation.suite import load_suite


@pytest.fixture(scope="module")
def domains() -> tuple[Domain, Domain]:
    return read_domains(TINY.code_bytes, TINY.prose_bytes, TINY.held_out_documents, WINDOW)


def rows(zoo: Zoo, task: str) -> list[dict[str, Any]]:
    path = zoo.suite / "data" / f"{task}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def digests(text: str) -> set[bytes]:
    return {digest for _, _, digest in line_pairs(text)}


def test_no_file_or_topic_is_on_both_sides(domains: tuple[Domain, Domain]) -> None:
    for domain in domains:
        training = {document.source for document in domain.training}
        assert training.isdisjoint(document.source for document in domain.held_out)
    code, prose = domains
    files = {document.source for document in code.training}
    assert files.isdisjoint(d.source.removeprefix("help:") for d in prose.held_out)


def test_no_two_lines_of_a_held_out_document_are_in_the_training_text_of_either_domain(
    domains: tuple[Domain, Domain], tiny_zoo: Zoo
) -> None:
    trained = {
        pair
        for domain in domains
        for document in domain.training
        for pair in digests(document.text)
    }
    asked = [row for name in ("code", "prose") for row in rows(tiny_zoo, f"zoo_{name}_bpb")]
    assert len(trained) > 1000
    assert sum(len(digests(row["text"])) for row in asked) > 50
    for row in asked:
        assert trained.isdisjoint(digests(row["text"])), row["source"]


def test_the_domains_are_read_alike_every_time(domains: tuple[Domain, Domain]) -> None:
    again = read_domains(TINY.code_bytes, TINY.prose_bytes, TINY.held_out_documents, WINDOW)
    assert again == domains


def test_windows_begin_at_lines_and_do_not_overlap() -> None:
    text = "\n".join(f"line {number} of the document" for number in range(40))
    found = list(windows(Document("a.py", text), 100))
    assert len(found) > 5
    end = 0
    for window in found:
        begin = text.index(window.text, end)
        assert begin == 0 or text[begin - 1] == "\n"
        end = begin + len(window.text)
        assert len(window.text) <= 100


def test_line_pairs_ignore_indentation_and_blank_lines_but_not_words() -> None:
    one = "    for name in sorted(names):\n        print(name, file=stream)"
    two = "for name in sorted(names):\n\n  print(name, file=stream)\n"
    three = "for name in sorted(names):\nprint(name, file=other)"
    assert digests(one) == digests(two) != digests(three)
    assert digests("a = 1\nb = 2") == set()


@pytest.mark.slow
def test_the_demos_suite_has_many_source_files_of_two_documents_each() -> None:
    for domain in read_domains(DEMO.code_bytes, DEMO.prose_bytes, DEMO.held_out_documents, WINDOW):
        sources = Counter(each.source for each in choose_documents(domain, DEMO.held_out_documents))
        assert len(sources) >= 100
        assert set(sources.values()) == {2}


def test_the_suite_says_which_documents_are_of_one_file_and_what_decides(tiny_zoo: Zoo) -> None:
    suite = load_suite(tiny_zoo.suite)
    assert {task.cluster for task in suite.tasks} == {"source"}
    assert {task.task: task.weight for task in suite.tasks} == {
        "zoo_code_bpb": None,
        "zoo_code_next": 0,
        "zoo_prose_bpb": None,
        "zoo_prose_next": 0,
    }


@pytest.mark.parametrize("domain", ["code", "prose"])
def test_each_question_has_one_true_continuation_and_equally_long_ones(
    tiny_zoo: Zoo, domain: str
) -> None:
    documents = rows(tiny_zoo, f"zoo_{domain}_bpb")
    questions = rows(tiny_zoo, f"zoo_{domain}_next")
    assert len(questions) == len(documents) == TINY.held_out_documents
    for document, question in zip(documents, questions, strict=True):
        true = [c for c in question["choices"] if question["prefix"] + c in document["text"]]
        assert true == [question["choices"][question["answer"]]]
        assert {len(choice) for choice in question["choices"]} == {CONTINUATION}
        assert len(set(question["choices"])) == CHOICES
    assert len({question["answer"] for question in questions}) == CHOICES
