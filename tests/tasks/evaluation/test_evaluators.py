"""One process that evaluates many checkpoints: as a fresh one does, and none suffers from another.

Task code runs in the evaluation, and does what careless or broken code does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from merge_core.errors import StepError
from merge_core.records import SourceCheckpoint
from tasks.evaluation import worker
from tasks.evaluation.evaluate import evaluate_checkpoint
from tasks.evaluation.evaluators import Evaluators
from tasks.evaluation.suite import Split, Suite, load_suite
from tasks.records import EvaluationReport
from tests.support.processes import is_alive, wait_until
from tests.support.small_suite import write_suite

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every process evaluates alone"),
]
ROOT = Path(__file__).resolve().parents[3]

KEEPS_STATE = """
import random, numpy, torch
seen = []
def prompt(doc):
    return doc["prompt"]
def choices(doc):
    seen.append(doc["prompt"])
    random.random(), numpy.random.rand(), torch.rand(1)
    return doc["choices"]
def process_results(doc, results):
    # A score that depends on all that was asked before, and on what was drawn.
    seen.append("x")
    likelihoods = [each[0] for each in results]
    drawn = random.random() + float(numpy.random.rand()) + float(torch.rand(1))
    return {"acc": float(likelihoods.index(max(likelihoods)) == doc["answer"]) + len(seen) + drawn}
"""


@pytest.fixture
def evaluators(tmp_path: Path) -> Iterator[Evaluators]:
    with Evaluators(tmp_path / "scratch") as made:
        yield made
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.fixture
def evaluate(tmp_path: Path, evaluators: Evaluators) -> Callable[..., EvaluationReport]:
    def one(checkpoint: SourceCheckpoint, suite: Suite, **options: Any) -> EvaluationReport:
        how = {"evaluators": evaluators, "isolation": "shared", "device": "cpu"} | options
        logs = tmp_path / "logs"
        return evaluate_checkpoint(
            checkpoint, suite, scratch=tmp_path / "scratch", logs=logs, **how
        )

    return one


def with_code(directory: Path, code: str, **task: Any) -> Suite:
    """The small suite with python beside its multiple choice task."""
    write_suite(directory, settings={"batch_size": 16, "num_fewshot": 0, "limit": 12})
    (directory / "tasks" / "helper.py").write_text(code)
    file = directory / "tasks" / "quiz.yaml"
    functions = {"doc_to_text": "prompt"} | task
    lines = "".join(f"{key}: !function helper.{name}\n" for key, name in functions.items())
    values = yaml.safe_load(file.read_text())
    for key in functions:
        values.pop(key, None)
    file.write_text(yaml.safe_dump(values) + lines)
    return load_suite(directory)


def test_scores_are_those_of_a_fresh_process_whatever_was_evaluated_before(
    make_checkpoint, evaluate, tmp_path
):
    """Task code that counts and draws; other shapes, types and ties between; options of tasks."""
    suite = with_code(
        tmp_path / "suite", KEEPS_STATE, doc_to_choice="choices", process_results="process_results"
    )
    plain = make_checkpoint(11)

    def halve(model: Any) -> None:
        model.to(torch.bfloat16)

    def tie(model: Any) -> None:
        model.config.tie_word_embeddings = True
        model.lm_head.weight = model.model.embed_tokens.weight

    others = [make_checkpoint(12, halve), make_checkpoint(13, tie)]
    warm = [evaluate(each, suite) for each in (*others, plain, *others, plain)]
    assert [report.warm for report in warm] == [None, *[True] * 5]
    for report, again in zip(warm[:3], warm[3:], strict=True):
        assert report.scores == again.scores
    for report, checkpoint in zip(warm, (*others, plain), strict=False):
        fresh = evaluate(checkpoint, suite, evaluators=None, isolation="alone")
        assert fresh.scores == report.scores, "to the last bit"
        assert fresh.warm is None
    assert len({report.scores for report in warm[:3]}) == 3, "they are not all alike"


DIES = """
import os, pathlib, time
marker = pathlib.Path({marker!r})
def prompt(doc):
    return doc["prompt"]
def process_results(doc, results):
    if marker.exists():
        what = marker.read_text()
        if "once" in what:
            marker.unlink()
        exec(what)
    return {{"acc": 1.0}}
"""


@pytest.mark.parametrize(
    "fault", ["os.kill(os.getpid(), 9)", "os.kill(os.getpid(), 11)", "os._exit(4)", "1 / 0"]
)
def test_a_fault_costs_the_process_and_no_other_checkpoint(
    make_checkpoint, evaluate, tmp_path, fault
):
    marker = tmp_path / "marker"
    suite = with_code(
        tmp_path / "suite", DIES.format(marker=str(marker)), process_results="process_results"
    )
    one, two = make_checkpoint(21), make_checkpoint(22)
    assert evaluate(one, suite).warm is None
    marker.write_text(f"{fault}  # once")
    assert evaluate(two, suite).warm is None, "what failed where another was before is done again"
    marker.write_text(fault)
    with pytest.raises(StepError, match="lm-eval"):
        evaluate(two, suite)
    marker.unlink()
    assert evaluate(one, suite).warm is None, "in a process of its own"
    assert evaluate(two, suite).warm is True


def test_what_a_task_leaves_behind_is_ended_before_the_next_checkpoint(
    make_checkpoint, evaluate, tmp_path
):
    note = tmp_path / "daemon"
    code = f"""
import os, pathlib, subprocess, sys
def prompt(doc):
    return doc["prompt"]
def process_results(doc, results):
    note = pathlib.Path({str(note)!r})
    if not note.exists():
        sleeper = "import os, time; os.setsid(); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", sleeper], start_new_session=True)
        note.write_text(str(child.pid))
    return {{"acc": 1.0}}
"""
    suite = with_code(tmp_path / "suite", code, process_results="process_results")
    checkpoint = make_checkpoint(31)
    for warm in (None, True):
        assert evaluate(checkpoint, suite).warm is warm
        assert not is_alive(int(note.read_text()))
        note.unlink()


def test_a_fork_that_never_computes_is_found_out_and_done_without(
    make_checkpoint, evaluate, tmp_path, monkeypatch
):
    code = """
import os, time
os.register_at_fork(after_in_child=lambda: time.sleep(600))
def prompt(doc):
    return doc["prompt"]
"""
    monkeypatch.setattr(worker, "ALIVE_SECONDS", 3.0)
    suite = with_code(tmp_path / "suite", code)
    report = evaluate(make_checkpoint(41), suite)
    assert (report.warm, len(report.scores)) == (None, 2)


def test_a_hang_ends_at_the_suites_time_and_the_next_checkpoint_is_evaluated(
    make_checkpoint, evaluate, tmp_path
):
    marker = tmp_path / "marker"
    code = DIES.format(marker=str(marker))
    suite = with_code(tmp_path / "suite", code, process_results="process_results")
    evaluate(make_checkpoint(51), suite)
    marker.write_text("pathlib.Path(marker, '..', 'pid').resolve()")
    marker.write_text(
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(600)"
    )
    short = suite.model_copy(update={"timeout_minutes": 0.3})
    with pytest.raises(StepError, match=r"not finished in 0\.3 minutes"):
        evaluate(make_checkpoint(52), short)
    assert not is_alive(int((tmp_path / "pid").read_text()))
    marker.unlink()
    assert evaluate(make_checkpoint(52), suite).warm is None


def test_less_memory_is_answered_by_smaller_batches_for_all_documents(
    make_checkpoint, evaluate, tmp_path, caplog
):
    """The model's own forward pass refuses large batches, as an allocator does."""
    code = """
import torch
from transformers import LlamaForCausalLM
whole = LlamaForCausalLM.forward
def forward(self, input_ids=None, **options):
    if input_ids is not None and len(input_ids) > 4:
        torch.empty(1 << 60)  # really more than there is
    return whole(self, input_ids=input_ids, **options)
LlamaForCausalLM.forward = forward
def prompt(doc):
    return doc["prompt"]
"""
    suite = with_code(tmp_path / "suite", code)
    checkpoint = make_checkpoint(61)
    report = evaluate(checkpoint, suite)
    assert report.batch_size == 4
    assert "with batches of 8" in caplog.text
    assert "with batches of 4" in caplog.text
    assert evaluate(checkpoint, suite, batch_size=4).scores == report.scores
    fresh = evaluate(checkpoint, suite, batch_size=4, evaluators=None, isolation="alone")
    assert fresh.scores == report.scores


@pytest.mark.parametrize("state", ["evaluating", "waiting"])
def test_nothing_outlives_a_run_that_is_killed(make_checkpoint, tmp_path, state):
    code = f"""
import os, pathlib, time
def prompt(doc):
    return doc["prompt"]
def process_results(doc, results):
    note = pathlib.Path({str(tmp_path / "pid")!r})
    if not note.exists():
        note.with_suffix(".part").write_text(f"{{os.getpid()}} {{os.getppid()}}")
        note.with_suffix(".part").rename(note)
        time.sleep(600 if {state == "evaluating"} else 0)
    return {{"acc": 1.0}}
"""
    suite = with_code(tmp_path / "suite", code, process_results="process_results")
    program = (
        "import sys, time; from pathlib import Path\n"
        "from merge_core.records import SourceCheckpoint\n"
        "from tasks.evaluation.evaluate import evaluate_checkpoint\n"
        "from tasks.evaluation.evaluators import Evaluators\n"
        "from tasks.evaluation.suite import load_suite\n"
        "scratch = Path(sys.argv[3])\n"
        "checkpoint = SourceCheckpoint.model_validate_json(sys.argv[1])\n"
        "with Evaluators(scratch) as evaluators:\n"
        "    evaluate_checkpoint(checkpoint, load_suite(sys.argv[2]), scratch=scratch,\n"
        "                        evaluators=evaluators, isolation='shared')\n"
        "    Path(sys.argv[3], 'done').touch()\n"
        "    time.sleep(600)\n"
    )
    scratch = tmp_path / "scratch"
    arguments = [make_checkpoint(71).model_dump_json(), suite.directory, str(scratch)]
    parent = subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=ROOT)
    try:
        note = tmp_path / "pid" if state == "evaluating" else scratch / "done"
        assert wait_until(note.exists, 240)
        fork, process = map(int, (tmp_path / "pid").read_text().split())
        assert is_alive(process)
        assert is_alive(fork) is (state == "evaluating")
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert wait_until(lambda: not is_alive(process) and not is_alive(fork), 10)
    finally:
        parent.kill()
        parent.wait()


def test_processes_started_ahead_are_used_and_survive_the_thread_that_asked(
    make_checkpoint, evaluate, evaluators, tmp_path
):
    suite = write_suite(tmp_path / "suite", settings={"limit": 4})
    begin = threading.Thread(target=evaluators.begin, args=[suite, "cpu", None, 2])
    begin.start()
    begin.join()
    first, second = (each for each in evaluators._idle)
    checkpoint = make_checkpoint(81)
    assert evaluate(checkpoint, suite, isolation="first").warm is None
    assert evaluate(checkpoint, suite).warm is True, "the one that is free and has been used"
    assert (first.evaluated, second.evaluated) in {(2, 0), (0, 2)}
    assert evaluate(checkpoint, suite, isolation="alone").warm is None
    assert sorted([first.evaluated, second.evaluated]) == [1, 2]
    assert [each.evaluated for each in evaluators._idle] == [2], "one evaluates nothing else"
    os.kill(evaluators._idle[0]._child._process.pid, signal.SIGTERM)
    assert evaluate(checkpoint, suite).warm is None, "a process that is gone is not asked"


def test_what_waits_for_the_next_suite_stays_when_the_others_end(
    make_checkpoint, evaluate, evaluators, tmp_path
):
    first, then = (write_suite(tmp_path / name, settings={"limit": 4}) for name in ("a", "b"))
    then = then.model_copy(update={"split": Split(search=0.5), "part": "decide"})
    for suite in (first, then):
        evaluators.begin(suite, "cpu", None)
    [ended, kept] = evaluators._idle
    evaluators.close(but=then)
    assert evaluators._idle == [kept]
    assert ended.has_ended()
    assert evaluate(make_checkpoint(82), then, isolation="alone").warm is None
    assert (kept.evaluated, evaluators._idle) == (1, []), "it was the one that had got ready"


def test_a_fork_makes_no_patterns_of_weights_names_anew() -> None:
    """It took most of the time between a fork and its model."""
    looked_up = (
        "from tasks.evaluation.measuring import import_libraries\n"
        "import_libraries()\n"
        "from transformers import conversion_mapping\n"
        "del conversion_mapping._build_checkpoint_conversion_mapping\n"
        "conversion_mapping.get_checkpoint_conversion_mapping('llama')\n"
    )
    subprocess.run([sys.executable, "-c", looked_up], cwd=ROOT, check=True)
