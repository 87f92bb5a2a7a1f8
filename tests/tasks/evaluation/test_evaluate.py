"""Evaluation with real lm-eval, real transformers and a real (tiny, random) Llama."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from merge_core.errors import CheckpointError, StepError
from merge_core.progress import ProgressEvent
from merge_core.records import SourceCheckpoint
from tasks.evaluation.evaluate import evaluate_checkpoint, evaluation_key
from tasks.evaluation.evaluators import Evaluators
from tasks.evaluation.lm_eval_tasks import load_tasks
from tasks.evaluation.odd_answers import odd_answers
from tasks.evaluation.suite import load_suite
from tasks.processes.model import Problem
from tasks.records import WORST_BITS, EvaluationReport
from tests.support.edited_objects import flip
from tests.support.processes import is_alive, wait_until
from tests.support.small_suite import TEXTS, choices, slow_task, write_suite

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def events() -> list:
    return []


@pytest.fixture(scope="module")
def report(base, suite, tmp_path_factory, events) -> EvaluationReport:
    scratch = tmp_path_factory.mktemp("scratch")
    made = evaluate_checkpoint(base, suite, device="cpu", scratch=scratch, progress=events.append)
    assert list(scratch.iterdir()) == [], "working files are removed after a success"
    assert (made.warm, made.batch_size) == (None, 16)
    return made


class Direct:
    """Likelihoods computed here with torch alone, one document at a time, in float64."""

    def __init__(self, checkpoint: SourceCheckpoint, tokenizer) -> None:
        from transformers import LlamaForCausalLM

        self.model = LlamaForCausalLM.from_pretrained(checkpoint.path).double()
        self.tokenizer = tokenizer

    def nats(self, context: str, continuation: str) -> float:
        whole = self.tokenizer.encode(context + continuation)
        start = len(self.tokenizer.encode(context)) if context else 0
        tokens = torch.tensor([[self.tokenizer.bos_token_id, *whole]])
        with torch.no_grad():
            scores = torch.log_softmax(self.model(tokens).logits[0], dim=-1)
        if context:  # a question is asked without the token that begins a whole text
            with torch.no_grad():
                scores = torch.log_softmax(self.model(tokens[:, 1:]).logits[0], dim=-1)
            return sum(float(scores[i - 1, whole[i]]) for i in range(start, len(whole)))
        return sum(float(scores[i, whole[i]]) for i in range(len(whole)))


def test_bits_per_byte_are_those_of_a_direct_computation(report, base, tokenizer):
    direct = Direct(base, tokenizer)
    score = report.score("bits")
    bits = [-direct.nats("", text) / math.log(2) for text in TEXTS]
    sizes = [len(text.encode()) for text in TEXTS]
    assert score.values == pytest.approx(bits, rel=1e-4)
    assert score.weights == tuple(map(float, sizes))
    assert score.score == pytest.approx(sum(bits) / sum(sizes), rel=1e-5)
    assert len(set(score.doc_ids)) == len(TEXTS)


def test_accuracy_is_that_of_a_direct_computation(report, base, tokenizer):
    direct = Direct(base, tokenizer)
    right = []
    for i, text in enumerate(TEXTS):
        nats = [direct.nats(text[:25], choice) for choice in choices(i)]
        right.append(float(nats.index(max(nats)) == i % 3))
    score = report.score("quiz")
    assert score.values == tuple(right)
    assert 0 < score.score == sum(right) / len(right) < 1


def test_the_report_names_what_was_measured_with_what(report, base, suite):
    assert report.checkpoint_digest == base.digest
    assert (report.suite, report.device, report.truncated) == ("small", "cpu", 0)
    assert report.lm_eval_version.startswith("0.4")
    assert EvaluationReport.model_validate_json(report.model_dump_json()) == report


def test_progress_counts_documents_up_to_all_of_them(report, events):
    assert report
    counted = [event for event in events if not event.stage.startswith("check ")]
    assert {(event.total, event.unit) for event in counted} == {(2 * len(TEXTS), "documents")}
    done = [event.done for event in counted]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 2 * len(TEXTS))


def test_a_collapsed_model_gets_its_own_scores_the_worst_finite_ones(
    report, base, make_checkpoint, suite, tmp_path
):
    def collapse(model) -> None:
        model.lm_head.weight.fill_(math.nan)

    how = {"device": "cpu", "scratch": tmp_path, "isolation": "shared"}
    with Evaluators(tmp_path) as evaluators:
        how["evaluators"] = evaluators
        broken = evaluate_checkpoint(make_checkpoint(1, collapse), suite, **how)
        after_it = evaluate_checkpoint(base, suite, **how)
    assert (broken.warm, after_it.warm, report.warm) == (None, True, None)
    assert after_it == report.model_copy(update={"warm": True}), "to the last bit"
    assert list(tmp_path.iterdir()) == []
    for task in ("bits", "quiz"):
        assert broken.score(task).doc_ids == report.score(task).doc_ids
    assert broken.score("bits").score == WORST_BITS
    assert broken.score("quiz").score == 0.0
    assert [score.non_finite for score in broken.scores] == [len(TEXTS), len(TEXTS)]
    assert [score.not_finite_at for score in broken.scores] == [tuple(range(len(TEXTS)))] * 2
    assert [score.non_finite for score in report.scores] == [0, 0]
    assert [score.not_finite_at for score in report.scores] == [None, None]
    assert [score.clusters for score in report.scores] == [None, None]
    assert "scores that are not finite numbers" in odd_answers(broken)[0]
    assert odd_answers(report) == ()
    json.loads(broken.model_dump_json(), parse_constant=lambda name: pytest.fail(name))


@pytest.mark.slow
def test_groups_generation_perplexity_and_cut_documents(base, tmp_path):
    directory = tmp_path / "suite"
    tasks = {"bits": "word_perplexity", "both": "acc_norm", "echo": "exact_match"}
    write_suite(directory)
    long = [{"prompt": text * 6, "choices": ["a", "b"], "answer": 0} for text in TEXTS[:3]]
    short = [{"prompt": "x", "choices": ["a", "b"], "answer": 0}] * 3
    for name, rows in (("long", long), ("short", short)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (directory / "data" / f"{name}.jsonl").write_text(lines)
        (directory / "tasks" / f"{name}.yaml").write_text(
            f"include: quiz.yaml\ntask: {name}\ndataset_kwargs: {{data_files: data/{name}.jsonl}}\n"
            "test_split: train\n"
        )
    (directory / "tasks" / "both.yaml").write_text("group: both\ntask: [long, short]\n")
    (directory / "tasks" / "echo.yaml").write_text(
        "task: echo\ndataset_path: json\ndataset_kwargs: {data_files: data/short.jsonl}\n"
        "test_split: train\noutput_type: generate_until\ndoc_to_text: '{{prompt}}'\n"
        "doc_to_target: 'never said'\ngeneration_kwargs: {until: ['.'], max_gen_toks: 4}\n"
        "metric_list: [{metric: exact_match}]\n"
    )
    file = yaml.safe_load((directory / "suite.yaml").read_text())
    file["tasks"] = [{"task": task, "metric": metric} for task, metric in tasks.items()]
    file["tasks"][1]["cluster"] = "prompt"
    file["settings"] = {"batch_size": 4, "num_fewshot": 0, "limit": 6, "max_length": 16}
    (directory / "suite.yaml").write_text(yaml.safe_dump(file))

    report = evaluate_checkpoint(
        base, load_suite(directory), device="cpu", scratch=tmp_path / "scratch"
    )

    assert report.truncated == 3, "the long questions; long texts are scored whole, in windows"
    bits, both, echo = report.scores
    assert bits.weights == tuple(float(len(text.split())) for text in TEXTS[:6])
    assert bits.score == pytest.approx(2 ** (sum(bits.values) / sum(bits.weights)))
    assert [name.partition(":")[0] for name in both.doc_ids] == ["long"] * 3 + ["short"] * 3
    assert both.clusters is not None, "the long prompts differ, the short ones are one cluster"
    assert (len(set(both.clusters[:3])), both.clusters[3:]) == (3, ("x",) * 3)
    assert bits.clusters is echo.clusters is None
    assert (echo.values, echo.score) == ((0.0,) * 3, 0.0)
    assert [score.truncated for score in report.scores] == [0, 3, 0]
    assert echo.cut_off == 3, "a random model does not come to an end within four tokens"


@pytest.mark.slow
def test_empty_cut_off_and_looping_answers_are_counted_apart(make_checkpoint, tokenizer, tmp_path):
    """A model that always says one token: a full stop, a blank, the end of text, or a word."""

    def saying(text: str) -> SourceCheckpoint:
        (token,) = tokenizer.encode(text)

        def edit(model) -> None:
            for weights in model.model.layers.parameters():
                weights.zero_()
            model.model.embed_tokens.weight.fill_(1.0)
            model.lm_head.weight.zero_()
            model.lm_head.weight[token] = 1.0

        return make_checkpoint(token, edit)

    directory = tmp_path / "suite"
    write_suite(directory)
    (directory / "tasks" / "echo.yaml").write_text(
        "task: echo\ndataset_path: json\ndataset_kwargs: {data_files: data/questions.jsonl}\n"
        "test_split: train\noutput_type: generate_until\ndoc_to_text: '{{prompt}}'\n"
        "doc_to_target: 'never said'\ngeneration_kwargs: {until: ['.'], max_gen_toks: 5}\n"
        "metric_list: [{metric: exact_match}]\n"
    )
    file = yaml.safe_load((directory / "suite.yaml").read_text())
    file["tasks"] = [{"task": "echo", "metric": "exact_match"}]
    file["settings"] = {"batch_size": 4, "num_fewshot": 0, "limit": 6}
    (directory / "suite.yaml").write_text(yaml.safe_dump(file))
    suite = load_suite(directory)

    scratch = tmp_path / "scratch"
    how = {"device": "cpu", "scratch": scratch, "isolation": "shared"}
    with Evaluators(scratch) as evaluators:

        def made_of(text: str) -> EvaluationReport:
            return evaluate_checkpoint(saying(text), suite, evaluators=evaluators, **how)

        def counts(text: str) -> tuple[int | None, int | None]:
            made = made_of(text)
            return made.score("echo").empty, made.score("echo").cut_off

        assert counts(".") == (6, 0), "cut at the stop, nothing is left"
        assert counts("<s>") == (6, 0)
        assert counts(" ") == (6, 6)
        assert counts("a") == (0, 6)
        short = made_of("a").score("echo")
        assert (short.looping, short.answer_characters) == (0, 6 * 5)
        task = directory / "tasks" / "echo.yaml"
        task.write_text(task.read_text().replace("max_gen_toks: 5", "max_gen_toks: 44"))
        suite = load_suite(directory)
        long = made_of("a").score("echo")
        assert (long.looping, long.answer_characters) == (6, 6 * 44)


@pytest.mark.parametrize(
    ("entry", "place", "message"),
    [
        ({"higher_is_better": False}, "higher_is_better", "says that higher acc is better"),
        ({"metric": "acc_norn", "higher_is_better": True}, "metric", "no metric 'acc_norn'"),
        ({"metric": "f1", "higher_is_better": True}, "metric", "combines f1 over documents by"),
        ({"filter": "strict"}, "filter", "no answer filter 'strict'"),
        ({"task": "quis"}, "task", "no lm-eval task 'quis'"),
    ],
)
def test_a_mistake_that_only_lm_eval_can_tell_is_found_before_the_model_is_loaded(
    suite, monkeypatch, tmp_path, entry, place, message
):
    monkeypatch.chdir(suite.directory)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    task = {"task": "quiz", "metric": "acc", "higher_is_better": True, "filter": None} | entry
    with pytest.raises(Problem, match=message) as caught:
        load_tasks({"include": [f"{suite.directory}/tasks"], "defaults": False, "tasks": [task]})
    assert caught.value.message["place"] == f"tasks[0].{place}"


def test_what_the_evaluation_process_understands_is_one_clear_message(base, suite, tmp_path):
    with pytest.raises(StepError, match="no device 'cuda:77' on this machine") as caught:
        evaluate_checkpoint(base, suite, device="cuda:77", scratch=tmp_path)
    assert "use one of: auto, cpu" in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "there is nothing to look up, so nothing is left"


def test_a_failure_inside_lm_eval_shows_the_reason_and_keeps_the_log(base, tmp_path):
    write_suite(tmp_path / "suite")
    file = tmp_path / "suite/tasks/quiz.yaml"
    file.write_text(file.read_text().replace("'{{prompt}}'", "'{{ 1 / 0 }}'"))
    with pytest.raises(StepError) as caught:
        evaluate_checkpoint(base, load_suite(tmp_path / "suite"), scratch=tmp_path / "scratch")
    message = str(caught.value)
    assert "ZeroDivisionError" in message
    log = Path(message.split("whole log: ")[1].splitlines()[0])
    assert "Traceback" in log.read_text()
    assert not (log.parent / "cache").exists()


def test_an_evaluation_that_takes_too_long_is_killed_and_says_so(base, tmp_path):
    suite = write_suite(tmp_path / "suite", timeout_minutes=0.02)
    with pytest.raises(StepError) as caught:
        evaluate_checkpoint(base, suite, device="cpu", scratch=tmp_path / "scratch")
    message = str(caught.value)
    assert "was killed: not finished in 0.02 minutes (no documents done)" in message
    assert "raise timeout_minutes" in message


def test_the_evaluation_does_not_outlive_a_parent_that_is_killed(base, tmp_path):
    directory = tmp_path / "suite"
    slow_task(directory, write_suite(directory))
    program = (
        "import sys; from pathlib import Path\n"
        "from merge_core.records import SourceCheckpoint\n"
        "from tasks.evaluation.evaluate import evaluate_checkpoint\n"
        "from tasks.evaluation.suite import load_suite\n"
        "checkpoint = SourceCheckpoint.model_validate_json(sys.argv[1])\n"
        "evaluate_checkpoint(checkpoint, load_suite(sys.argv[2]), scratch=Path(sys.argv[3]))\n"
    )
    arguments = [base.model_dump_json(), str(directory), str(tmp_path / "scratch")]
    parent = subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=ROOT)
    note = directory / "pid"
    try:
        assert wait_until(note.exists, 120)
        child = int(note.read_text())
        assert is_alive(child)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert wait_until(lambda: not is_alive(child), 10)
    finally:
        parent.kill()
        parent.wait()


@pytest.mark.slow
def test_what_is_scored_is_what_the_digest_stands_for(make_checkpoint, suite, tmp_path):
    checkpoint = make_checkpoint(7)
    weights = checkpoint.directory / "model.safetensors"

    def meddle(event: ProgressEvent) -> None:
        if event.unit == "documents" and event.done == 0:
            flip(weights)

    with pytest.raises(CheckpointError, match=r"model\.safetensors changed meanwhile"):
        evaluate_checkpoint(checkpoint, suite, scratch=tmp_path, device="cpu", progress=meddle)
    with pytest.raises(CheckpointError, match=r"model\.safetensors has changed"):
        evaluate_checkpoint(checkpoint, suite, scratch=tmp_path, device="cpu")
    flip(weights)
    (checkpoint.directory / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is not listed"):
        evaluate_checkpoint(checkpoint, suite, scratch=tmp_path, device="cpu")


def test_the_cache_key_changes_with_everything_that_changes_a_score(base, suite, tmp_path):
    other = base.model_copy(update={"digest": "0" * 64})
    halved = write_suite(tmp_path / "suite", settings={"batch_size": 16, "limit": 5})
    key = evaluation_key(base, suite, "cpu")
    assert key == evaluation_key(base, suite, "cpu")
    assert evaluation_key(base, suite, "cuda:1") == evaluation_key(base, suite, "cuda")
    changed = {
        evaluation_key(other, suite, "cpu"),
        evaluation_key(base, halved, "cpu"),
        evaluation_key(base, suite, "cuda"),
        evaluation_key(base, suite, "cpu", "0.4.99", None),
        evaluation_key(base, suite, "cpu", None, "5.99"),
    }
    assert len(changed | {key}) == 6
