"""The zoo's evaluation suite: held-out text of both domains as lm-eval tasks.

For each domain, bits per byte of a document, and "which continuation is the true one", where the
wrong ones are continuations of other held-out documents of the same domain.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from flows.model_zoo.text import WINDOWS_EACH, Document, Domain, windows

WINDOW = 200
"""Characters of a held-out document, which fit the model's context whatever the tokenizer."""

PREFIX, CONTINUATION = 80, 12
"""Characters shown and characters to choose. All continuations are equally long, so `acc` needs
no normalisation by length."""

CHOICES = 3

NEIGHBOURS = 4
"""Wrong continuations are drawn from this many that are closest to the true one in usualness."""

PIECE = re.compile(r"\w+|\s+|[^\w\s]")


def write_suite(directory: Path, domains: Sequence[Domain], documents: int) -> None:
    """Write `suite.yaml`, `tasks/*.yaml` and `data/*.jsonl`; data paths start at `directory`."""
    (directory / "tasks").mkdir(parents=True)
    (directory / "data").mkdir()
    entries: list[dict[str, Any]] = []
    for domain in domains:
        held_out = choose_documents(domain, documents)
        bpb, following = f"zoo_{domain.name}_bpb", f"zoo_{domain.name}_next"
        _write_task(directory, bpb, _bpb_task(), [_text(document) for document in held_out])
        _write_task(directory, following, _next_task(), _questions(domain, held_out))
        # Bits per byte say more of so small models than their answers, which are only guarded.
        text = {"metric": "bits_per_byte", "higher_is_better": False, "cluster": "source"}
        questions = {"metric": "acc", "higher_is_better": True, "cluster": "source", "weight": 0}
        entries += [{"task": bpb, **text}, {"task": following, **questions}]
    suite = {
        "name": "zoo",
        "include": "tasks",
        "tasks": entries,
        "settings": {
            "batch_size": 32,
            "num_fewshot": 0,
            "limit": None,
            "max_length": None,
            "seed": 1234,
            "dtype": "float32",  # a CPU without bfloat16 arithmetic is slower in the stored type
        },
        "timeout_minutes": 60,
    }
    (directory / "suite.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))


def choose_documents(domain: Domain, count: int) -> list[Document]:
    """`count` held-out windows, `WINDOWS_EACH` of a file, the same for the same text."""
    chance = random.Random(1)
    seen: set[str] = set()
    found: list[Document] = []
    for document in domain.held_out:
        own = list({window.text: window for window in windows(document, WINDOW)}.values())
        new = [window for window in own if window.text not in seen]
        if len(new) >= WINDOWS_EACH:
            found += chance.sample(new, WINDOWS_EACH)
            seen.update(window.text for window in own)
    return sorted(found[:count], key=lambda document: document.source)


def _text(document: Document) -> dict[str, Any]:
    return {"source": document.source, "text": document.text}


def _questions(domain: Domain, documents: Sequence[Document]) -> list[dict[str, Any]]:
    """A small model knows above all which words are usual, so a rare true continuation would lose
    to any common one. Wrong continuations are as usual as the true one in the training text, and
    what remains to be judged is whether they follow."""
    usualness = _usualness(domain)
    pool = []
    for document in documents:
        for start in range(PREFIX, len(document.text) - CONTINUATION, 40):
            _, text = _cut(document.text, start)
            pool.append((usualness(text), document.source, text))
    chance = random.Random(2)
    questions = []
    for document in documents:
        prefix, true = _cut(document.text, PREFIX)
        wanted = usualness(true)
        others = {
            text: abs(usual - wanted)
            for usual, source, text in pool
            if source != document.source and text != true
        }
        nearest = sorted(others, key=lambda text: (others[text], text))[:NEIGHBOURS]
        wrong = chance.sample(nearest, CHOICES - 1)
        answer = chance.randrange(CHOICES)
        choices = [*wrong[:answer], true, *wrong[answer:]]
        questions.append(
            {"source": document.source, "prefix": prefix, "choices": choices, "answer": answer}
        )
    return questions


def _usualness(domain: Domain) -> Callable[[str], float]:
    """Log probability of a text's words, spaces and signs, each by its count in training text."""
    counts = Counter(
        piece for document in domain.training for piece in PIECE.findall(document.text)
    )
    total = counts.total()

    def of(text: str) -> float:
        return sum(math.log((counts[piece] + 0.5) / total) for piece in PIECE.findall(text))

    return of


def _cut(text: str, start: int) -> tuple[str, str]:
    """Prefix and continuation. The continuation begins with the whitespace after a word."""
    last = len(text) - CONTINUATION
    ends = (i for i in range(start, last) if text[i].isspace() and not text[i - 1].isspace())
    at = next(ends, last)
    return text[max(0, at - PREFIX) : at], text[at : at + CONTINUATION]


def _write_task(directory: Path, name: str, task: dict[str, Any], rows: list[Any]) -> None:
    data = f"data/{name}.jsonl"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (directory / data).write_text(lines)
    common = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": data}},
        "test_split": "test",
        **task,
        "metadata": {"version": 1.0},
    }
    (directory / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump(common, sort_keys=False))


def _bpb_task() -> dict[str, Any]:
    # Columns are named rather than templated: exact, and lm-eval compiles a template each time.
    return {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "bits_per_byte"}],
    }


def _next_task() -> dict[str, Any]:
    return {
        "output_type": "multiple_choice",
        "doc_to_text": "prefix",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
