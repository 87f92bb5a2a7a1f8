"""Other back ends than transformers: a server that is started for each checkpoint, and vLLM."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
from pydantic import ValidationError

from merge_core.errors import MergeflowError, RecipeError
from tasks.evaluation.backends import vllm_options
from tasks.evaluation.evaluate import evaluate_checkpoint
from tasks.evaluation.needs import check_needs
from tasks.evaluation.settings import SuiteSettings
from tasks.evaluation.suite import suite_digest
from tests.support import completions_server
from tests.support.small_suite import write_suite

SERVER = [sys.executable, completions_server.__file__, "{checkpoint}", "{port}"]
QUESTIONS = (
    "dataset_path: json\ndataset_kwargs: {data_files: {test: data/questions.jsonl}}\n"
    "test_split: test\noutput_type: generate_until\ndoc_to_text: '{{prompt}}'\n"
    "doc_to_target: '{{choices[0]}}'\ngeneration_kwargs: {until: ['.'], max_gen_toks: 4}\n"
    "metric_list: [{metric: exact_match}]\n"
)


def served(directory: Path, *options: str, **settings):
    changes = {"backend": "server", "server": [*SERVER, *options], "num_fewshot": 0}
    return write_suite(directory, settings={"batch_size": 4} | changes | settings)


def with_answers(suite, directory: Path):
    """A third task, of answers."""
    (directory / "tasks" / "answers.yaml").write_text("task: answers\n" + QUESTIONS)
    tasks = (
        *suite.tasks,
        suite.tasks[1].model_copy(update={"task": "answers", "metric": "exact_match"}),
    )
    return suite.model_copy(update={"tasks": tasks})


def evaluated(checkpoint, suite, scratch: Path, **options):
    return evaluate_checkpoint(
        checkpoint, suite, device="cpu", threads=1, scratch=scratch, **options
    )


def servers() -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if completions_server.__file__ in (process.info["cmdline"] or ())
    ]


@pytest.mark.slow
def test_a_server_gives_the_scores_that_transformers_gives(base, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    here = write_suite(tmp_path / "here", settings={"batch_size": 4, "num_fewshot": 0})
    ours = evaluated(base, with_answers(here, tmp_path / "here"), tmp_path / "scratch")
    there = with_answers(served(tmp_path / "there"), tmp_path / "there")
    told = []
    theirs = evaluated(base, there, tmp_path / "scratch", progress=told.append)
    assert theirs.device == "server"
    assert theirs.suite_digest != ours.suite_digest
    for own, other in zip(ours.scores, theirs.scores, strict=True):
        assert other.doc_ids == own.doc_ids
        assert other.values == pytest.approx(own.values, rel=1e-5)
        assert other.prompt_hashes == own.prompt_hashes
        for counted in ("empty", "cut_off", "looping", "answer_characters", "truncated"):
            assert getattr(other, counted) == getattr(own, counted), counted
    assert ours.score("answers").cut_off
    assert told[-1].done == told[-1].total
    assert not servers()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--fault", "end"),
            "ended with exit code 1 before it answered: the server has no memory for this model",
        ),
        (("--fault", "text"), "does not answer as OpenAI's completions do"),
        (("--fault", "break"), "does not answer as OpenAI's completions do"),
        (("--host", "0.0.0.0"), "listens on 0.0.0.0, where other machines reach it"),
    ],
)
def test_a_server_that_does_not_serve_is_told_and_ended(base, tmp_path, options, said):
    suite = served(tmp_path / "suite", *options)
    with pytest.raises(MergeflowError, match="server") as caught:
        evaluated(base, suite, tmp_path / "scratch")
    assert said in caught.value.what
    assert "settings.server" in caught.value.where
    assert not servers()


@pytest.mark.slow
def test_another_program_on_the_port_is_never_asked(base, tmp_path):
    """A command that ignores its port, while somebody else listens there, is waited for."""
    (tmp_path / "stranger.py").write_text(
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, {completions_server.__file__!r}, *sys.argv[1:]],\n"
        "                 start_new_session=True, stdout=subprocess.DEVNULL)\n"
        "sys.exit(3)\n"
    )
    suite = write_suite(
        tmp_path / "suite",
        settings={
            "backend": "server",
            "server": [sys.executable, str(tmp_path / "stranger.py"), "{checkpoint}", "{port}"],
        },
    )
    with pytest.raises(RecipeError, match="ended with exit code 3 before it answered"):
        evaluated(base, suite, tmp_path / "scratch")
    assert not servers()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"backend": "server"}, "belong together"),
        ({"server": SERVER}, "belong together"),
        ({"backend": "server", "server": ["vllm", "{checkpoint}"]}, "{port} among them"),
        ({"backend": "server", "server": SERVER, "dtype": "float32"}, "for the server's command"),
        ({"backend": "vllm", "device_map": "auto"}, "device_map is for backend: transformers"),
        ({"backend_options": {"tensor_parallel_size": 2}}, "backend_options are vLLM's"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings, said):
    with pytest.raises(ValidationError) as caught:
        SuiteSettings(**settings)
    assert said in str(caught.value)


def test_a_missing_program_or_package_is_told_before_anything_is_merged(base, tmp_path):
    absent = write_suite(
        tmp_path / "a",
        settings={"backend": "server", "server": ["no-such-server", "{checkpoint}", "{port}"]},
    )
    with pytest.raises(RecipeError, match="no program 'no-such-server'"):
        check_needs(absent, base.directory)
    in_vllm = write_suite(tmp_path / "b", settings={"backend": "vllm"})
    with pytest.raises(RecipeError, match="vLLM, which is not installed here"):
        check_needs(in_vllm, base.directory)


def test_options_reach_vllm_and_cannot_turn_remote_code_on():
    settings = SuiteSettings(
        backend="vllm",
        dtype="bfloat16",
        max_length=4096,
        backend_options={"tensor_parallel_size": 2, "trust_remote_code": True},
    )
    made = vllm_options(settings.model_dump(), "/models/merged")
    assert made == {
        "pretrained": "/models/merged",
        "dtype": "bfloat16",
        "max_model_len": 4096,
        "seed": 1234,
        "batch_size": "auto",
        "tensor_parallel_size": 2,
        "trust_remote_code": False,
    }


def test_a_suite_without_a_back_end_keeps_its_digest_and_one_with_it_has_another(tmp_path):
    plain = write_suite(tmp_path / "a", settings={"batch_size": 8})
    named = write_suite(tmp_path / "b", settings={"batch_size": 8, "backend": "transformers"})
    other = write_suite(tmp_path / "c", settings={"batch_size": 8, "backend": "vllm"})
    assert suite_digest(plain) == suite_digest(named) != suite_digest(other)
