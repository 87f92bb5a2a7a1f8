"""Mends of suites that a server or vLLM computes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from merge_core.errors import StepError
from merge_core.records import SourceCheckpoint
from tasks.evaluation.checkpoint_server import serving
from tasks.evaluation.evaluate import evaluate_checkpoint
from tasks.processes.model import Problem
from tests.field.mends.situations import Situation, situations
from tests.field.mends.test_suite_mends import needs
from tests.support.followed_mends import Advice, Shell, Step
from tests.support.small_llama import trained_tokenizer, write_small_llama
from tests.tasks.evaluation.test_backends import served

pytestmark = pytest.mark.slow  # `make field`

SMALL = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Models(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": "small"}]}).encode())
HTTPServer((sys.argv[1], int(sys.argv[2])), Models).serve_forever()
"""


def started(*command: str) -> str:
    """Serve with a command, and say what the server calls its model."""
    try:
        with serving(command, "/models/merged") as address:
            return address.model
    except Problem as problem:
        raise StepError(problem.message["what"], mend=problem.message["mend"]) from None


def small(host: str = "127.0.0.1", port: str = "{port}") -> tuple[str, ...]:
    return (sys.executable, "-c", SMALL, host, port)


def vllm_that_is_not_there(here: Path) -> Iterator[Step]:
    yield (needs, here, {"backend": "vllm"})
    yield (needs, here, {})


def a_server_that_is_not_there(here: Path) -> Iterator[Step]:
    rest = ["{checkpoint}", "{port}"]
    yield (needs, here, {"backend": "server", "server": ["python-of-mine", *rest]})
    yield (needs, here, {"backend": "server", "server": [sys.executable, *rest]})


def a_file_that_is_no_program(here: Path) -> Iterator[Step]:
    (here / "serve").write_text("no program")
    (here / "serve").chmod(0o600)
    yield (started, str(here / "serve"), "{port}")
    yield (started, *small())


def a_server_that_ends(here: Path) -> Iterator[Step]:
    yield (started, *small(port="none"))
    yield (started, *small())


def a_server_for_the_whole_network(here: Path) -> Iterator[Step]:
    yield (started, *small(host="0.0.0.0"))
    yield (started, *small())


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_backend(situation: Situation, here: Path, mergeflow: Shell, advice: Advice) -> None:
    advice.follow(mergeflow, situation(here))


def scored(here: Path, checkpoint: SourceCheckpoint, *options: str) -> str:
    """Evaluate with the small server of completions."""
    suite = served(here / f"suite{len(options)}", *options)
    evaluate_checkpoint(checkpoint, suite, device="cpu", threads=1, scratch=here / "scratch")
    return "scored"


def test_a_server_of_another_kind(here: Path, mergeflow: Shell, advice: Advice) -> None:
    checkpoint = write_small_llama(here / "llama", trained_tokenizer(), 0)

    def situation() -> Iterator[Step]:
        yield (scored, here, checkpoint, "--fault", "text")
        yield (scored, here, checkpoint)

    advice.follow(mergeflow, situation())
