"""A suite of two small tasks with its own texts, and one that takes for ever."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tasks.evaluation.suite import Suite, load_suite

TEXTS = [
    f"Line {i}: the {a} {b} {c} the {d}."
    for i, (a, b, c, d) in enumerate(
        (a, b, c, d)
        for a in ("old", "small", "green", "quiet")
        for b in ("fox", "clock", "river", "engine")
        for c in ("follows", "meets")
        for d in ("road", "garden")
    )
]

CONTEXT = 96


def choices(i: int) -> list[str]:
    return [" the road.", " the garden, of course.", f" {i}."]


def write_suite(directory: Path, **changes) -> Suite:
    """A suite with a likelihood task, a multiple choice task and whatever `changes` replaces."""
    (directory / "tasks").mkdir(parents=True)
    (directory / "data").mkdir()
    texts = [{"text": text} for text in TEXTS]
    questions = [
        {"prompt": text[:25], "choices": choices(i), "answer": i % 3}
        for i, text in enumerate(TEXTS)
    ]
    for name, rows in (("texts", texts), ("questions", questions)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (directory / "data" / f"{name}.jsonl").write_text(lines)
    common = {"dataset_path": "json", "test_split": "test"}
    perplexities = ("bits_per_byte", "word_perplexity", "byte_perplexity")
    task_files = {
        "bits": {
            "dataset_kwargs": {"data_files": {"test": "data/texts.jsonl"}},
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": metric} for metric in perplexities],
        },
        "quiz": {
            "dataset_kwargs": {"data_files": {"test": "data/questions.jsonl"}},
            "output_type": "multiple_choice",
            "doc_to_text": "{{prompt}}",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "target_delimiter": "",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}, {"metric": "f1"}],
        },
    }
    for name, config in task_files.items():
        text = yaml.safe_dump({"task": name, **common, **config})
        (directory / "tasks" / f"{name}.yaml").write_text(text)
    suite = {
        "name": "small",
        "include": "tasks",
        "tasks": [{"task": "bits", "metric": "bits_per_byte"}, {"task": "quiz", "metric": "acc"}],
        "settings": {"batch_size": 16, "num_fewshot": 0},
        "timeout_minutes": 4,
    }
    (directory / "suite.yaml").write_text(yaml.safe_dump({**suite, **changes}))
    return load_suite(directory)


def slow_task(directory: Path, suite: Suite) -> Suite:
    """A task whose documents take for ever to prepare; it notes its process id."""
    helper = (
        "import os, pathlib, time\n"
        "def sleep(docs):\n"
        f"    note = pathlib.Path({str(directory)!r}, 'pid')\n"
        "    note.with_suffix('.part').write_text(str(os.getpid()))\n"
        "    note.with_suffix('.part').rename(note)\n"
        "    time.sleep(600)\n"
    )
    (directory / "tasks" / "helper.py").write_text(helper)
    file = directory / "tasks" / "bits.yaml"
    file.write_text(file.read_text() + "process_docs: !function helper.sleep\n")
    return load_suite(directory)
