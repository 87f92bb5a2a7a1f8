"""Mends of evaluations: lm-eval on a small model, in a process of its own that ends oddly."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.model_zoo import Zoo
from merge_core.checkpoints.sources import describe_source
from merge_core.errors import StepError
from merge_core.files.digests import DigestMemo
from tasks.evaluation.evaluate import evaluate_checkpoint
from tasks.evaluation.lm_eval_tasks import load_tasks
from tasks.evaluation.suite import load_suite
from tasks.processes.model import Problem
from tests.field.mends.situations import Situation, situations
from tests.support.followed_mends import Advice, Shell, Step

pytestmark = pytest.mark.slow


def suite(here: Path, **changes: Any) -> Path:
    """The suite of the example models, with one task, and changes."""
    file = here / "suite/suite.yaml"
    values = yaml.safe_load(file.read_text())
    own = [task for task in values["tasks"] if task["task"].endswith("bpb")]
    values["tasks"] = own[:1] or values["tasks"]
    values["settings"] = values.get("settings", {}) | {"limit": 5}
    file.write_text(yaml.safe_dump(values | changes))
    return here / "suite"


def task_file(here: Path) -> Path:
    """The file of the suite's task."""
    values = yaml.safe_load((here / "suite/suite.yaml").read_text())
    return here / "suite" / values["include"] / f"{values['tasks'][0]['task']}.yaml"


def evaluated(here: Path, device: str = "cpu", scratch: str = "scratch", half: str = "") -> str:
    """Evaluate the model."""
    source = describe_source("model", here / "model", DigestMemo(None))
    report = evaluate_checkpoint(
        source, load_suite(f"{here / 'suite'}{half}"), device=device, scratch=here / scratch
    )
    assert report.scores
    return "evaluated"


def doing(here: Path, code: str) -> Path:
    """Have the task's code do something; returns the file whose removal stops that."""
    marker = here / "marker"
    marker.write_text(code)
    file = task_file(here)
    helper = (
        "import os, pathlib\n"
        "def prepare(docs):\n"
        f"    marker = pathlib.Path({str(marker)!r})\n"
        "    if marker.exists(): exec(marker.read_text())\n"
        "    return docs\n"
    )
    (file.parent / "helper.py").write_text(helper)
    file.write_text(file.read_text() + "process_docs: !function helper.prepare\n")
    return marker


def an_evaluation_that_takes_too_long(here: Path) -> Iterator[Step]:
    suite(here, timeout_minutes=0.02)
    yield (evaluated, here)
    suite(here, timeout_minutes=5)
    yield (evaluated, here)


def an_evaluation_that_is_told_to_end(here: Path) -> Iterator[Step]:
    suite(here)
    marker = doing(here, "import signal; pathlib.Path(marker).unlink(); os.kill(os.getpid(), 15)")
    yield (evaluated, here)
    assert not marker.exists()
    yield (evaluated, here)


def memory_that_is_not_there(here: Path) -> Iterator[Step]:
    suite(here)
    marker = doing(here, "os.kill(os.getpid(), 7)")
    yield (evaluated, here)
    marker.unlink()
    yield (evaluated, here)


def a_signal_that_nobody_sends(here: Path) -> Iterator[Step]:
    suite(here)
    marker = doing(here, "os.kill(os.getpid(), 31)")
    yield (evaluated, here)
    marker.unlink()
    yield (evaluated, here)


def a_template_that_fails(here: Path) -> Iterator[Step]:
    suite(here)
    file = task_file(here)
    right = file.read_text()
    file.write_text(right + "process_docs: !function helper.fails\n")
    (file.parent / "helper.py").write_text("def fails(docs): return 1 / 0\n")
    yield (evaluated, here)
    file.write_text(right)
    yield (evaluated, here)


def data_that_is_on_the_hub(here: Path) -> Iterator[Step]:
    suite(here)
    marker = doing(here, "raise ConnectionError('no route to the Hub')")
    yield (evaluated, here)
    marker.unlink()
    yield (evaluated, here)


def a_device_that_is_not_there(here: Path) -> Iterator[Step]:
    suite(here)
    yield (partial(evaluated, here, device="cuda:77"),)
    yield (partial(evaluated, here, device="auto"),)


def a_place_that_cannot_be_written(here: Path) -> Iterator[Step]:
    suite(here)
    (here / "file").write_text("")
    yield (partial(evaluated, here, scratch="file/scratch"),)
    yield (partial(evaluated, here, scratch="scratch"),)


def too_few_open_files(here: Path) -> Iterator[Step]:
    suite(here)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []

    def starved() -> str:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(5):  # enough to read the suite, too few for a process and its pipes
            os.close(held.pop())
        try:
            return evaluated(here)
        finally:
            while held:
                os.close(held.pop())
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    yield (starved,)
    yield (evaluated, here)


def asked(here: Path, **changes: Any) -> str:
    """What lm-eval knows of a task, asked in this process."""
    entry = {"task": "quiz", "metric": "acc", "higher_is_better": True, "filter": None} | changes
    directory = here / "tasks"
    try:
        load_tasks({"include": [str(directory)], "defaults": False, "tasks": [entry]})
    except Problem as problem:
        raise StepError(problem.message["what"], mend=problem.message["mend"]) from None
    return "loaded"


def quiz(here: Path, **changes: Any) -> None:
    """A task of multiple choice."""
    (here / "tasks").mkdir(exist_ok=True)
    (here / "questions.jsonl").write_text('{"prompt": "a", "choices": ["b", "c"], "answer": 0}\n')
    values = {
        "task": "quiz",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(here / "questions.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "f1"}],
    }
    (here / "tasks/quiz.yaml").write_text(yaml.safe_dump(values | changes))


def a_metric_that_is_no_mean(here: Path) -> Iterator[Step]:
    quiz(here)
    yield (partial(asked, here, metric="f1"),)
    yield (partial(asked, here, metric="acc"),)


def several_filters(here: Path) -> Iterator[Step]:
    filters = [
        {"name": name, "filter": [{"function": "take_first"}]} for name in ("strict", "loose")
    ]
    quiz(here, filter_list=filters)
    yield (partial(asked, here),)
    yield (partial(asked, here, filter="strict"),)


def clustered(here: Path, field: str | None) -> None:
    """Name the field of the suite's task by which documents belong together, or none."""
    suite(here)
    file = here / "suite/suite.yaml"
    values = yaml.safe_load(file.read_text())
    values["tasks"][0].pop("cluster", None)
    if field:
        values["tasks"][0]["cluster"] = field
    file.write_text(yaml.safe_dump(values))


def a_field_that_some_documents_leave_empty(here: Path) -> Iterator[Step]:
    clustered(here, "source")
    values = yaml.safe_load(task_file(here).read_text())
    data = here / "suite" / values["dataset_kwargs"]["data_files"]["test"]
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    for number, line in enumerate(lines):
        line["source"] = "" if number == 2 else f"file {number // 2}"
    data.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    yield (evaluated, here)
    clustered(here, next(key for key in lines[0] if key != "source"))
    yield (evaluated, here)


def documents(here: Path, *sources: str) -> None:
    """Write the data of the suite's task: a text from each source."""
    values = yaml.safe_load(task_file(here).read_text())
    lines = [{"text": f"Line {i} is short.", "source": each} for i, each in enumerate(sources)]
    data = here / "suite" / values["dataset_kwargs"]["data_files"]["test"]
    data.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def a_single_group_to_split(here: Path) -> Iterator[Step]:
    clustered(here, "source")
    suite(here, split={"search": 0.5})
    documents(here, "a", "a")
    yield (partial(evaluated, here, half="#search"),)
    documents(here, "a", "a", "b")
    yield (partial(evaluated, here, half="#search"),)


LINES = """
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task

class Lines(Task):
    VERSION = 0
    OUTPUT_TYPE = "loglikelihood"
    def download(self, *_, **__): self.dataset = {"test": ["one line", "another line"]}
    def has_training_docs(self): return False
    def has_validation_docs(self): return False
    def has_test_docs(self): return True
    def test_docs(self): return self.dataset["test"]
    def doc_to_text(self, doc): return doc.split()[0]
    def doc_to_target(self, doc): return " " + doc.split()[1]
    def construct_requests(self, doc, ctx, **kwargs):
        kwargs = {key: kwargs[key] for key in ("metadata",) if key in kwargs}
        given = (ctx, self.doc_to_target(doc))
        return [Instance("loglikelihood", doc, given, 0, **kwargs)]
    def process_results(self, doc, results): return {"acc": float(results[0][1])}
    def aggregation(self): return {"acc": mean}
    def higher_is_better(self): return {"acc": True}
"""
"""A task that is code, whose documents are lines."""


def documents_that_have_no_fields(here: Path) -> Iterator[Step]:
    directory = task_file(here).parent
    (directory / "lines.py").write_text(LINES)
    (directory / "lines.yaml").write_text("task: lines\nclass: !function lines.Lines\n")
    task = {"task": "lines", "metric": "acc"}
    suite(here, tasks=[task | {"cluster": "source"}])
    yield (evaluated, here)
    suite(here, tasks=[task])
    yield (evaluated, here)


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_evaluation(
    situation: Situation,
    tiny_zoo: Zoo,
    here: Path,
    mergeflow: Shell,
    advice: Advice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", here / "datasets")
    shutil.copytree(tiny_zoo.suite, here / "suite")
    shutil.copytree(tiny_zoo.base, here / "model")
    advice.follow(mergeflow, situation(here))
