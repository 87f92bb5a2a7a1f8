"""The evaluation process: `python -m tasks.evaluation.process`, which `worker` alone starts.

Its first job is a suite, which it makes ready: {"ready"} or {"problem"}. Each job after that is a
checkpoint. Most are evaluated in a fork: it has the libraries and documents that were made ready,
and nothing of a checkpoint that was evaluated before. Processes that the fork leaves behind are
ended before {"ended"} is sent. A job with "here" is evaluated in this process, which ends then.
So it does after a job with "texts", which asks for the text of documents and needs no checkpoint.

Messages: {"unprepared"}, {"forked"}, {"alive"}, {"done", "total"}, {"halved"}, {"look"}, then
{"result"} or {"problem"}. A {"look"} is answered on standard input, and this process hands the
answer on to its fork.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from tasks.evaluation.measuring import Measuring
from tasks.processes.child import Send, take_jobs, take_over
from tasks.processes.descendants import end_descendants, take_over_orphans
from tasks.processes.model import answer, end_here

_LOOK_EVERY = 0.02


def main() -> None:
    """Make the suite ready, and evaluate checkpoints until no job comes any more."""
    job, next_job, send = take_jobs()
    take_over_orphans()
    made: list[Measuring] = []
    if not answer(lambda: made.append(Measuring(job)), send, "ready"):
        end_here()
    measuring = made[0]
    while True:
        asked = next_job()
        if "texts" in asked:
            answer(partial(measuring.write_texts, asked["texts"]), send, "result")
            end_here()
        if asked["here"]:
            answer(partial(measuring.measure, asked, send, next_job), send, "result")
            end_here()
        _evaluate_in_a_fork(measuring, asked, send, next_job)


def _evaluate_in_a_fork(
    measuring: Measuring, asked: dict[str, Any], send: Send, next_job: Callable[..., dict[str, Any]]
) -> None:
    try:
        measuring.prepare(asked["checkpoint"])
    except Exception:
        # It is tried again in a fresh process, which tells what is the matter.
        traceback.print_exc()
        send({"unprepared": True})
        end_here()
    sys.stdout.flush()
    sys.stderr.flush()
    send({"forked": True})
    parent = os.getpid()
    answers, hand_on = os.pipe()
    child = os.fork()
    if child == 0:
        take_over(parent)
        os.close(hand_on)
        answered = os.fdopen(answers)
        _write_to(asked["log"])
        measuring.prove_alive()
        send({"alive": True})
        hear = partial(_heard, answered)
        answer(partial(measuring.measure, asked, send, hear), send, "result")
        end_here()
    os.close(answers)
    status = _hand_on_until_its_end(child, hand_on, next_job, asked["looks"] is not None)
    end_descendants()
    send({"ended": os.waitstatus_to_exitcode(status)})


def _heard(answers: Any) -> dict[str, Any]:
    heard: dict[str, Any] = json.loads(answers.readline())
    return heard


def _hand_on_until_its_end(
    child: int, hand_on: int, next_job: Callable[..., dict[str, Any]], is_looked_at: bool
) -> int:
    """Hand answers on to a fork, which cannot read them itself; its exit status."""
    try:
        while is_looked_at:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status
            with contextlib.suppress(queue.Empty, BrokenPipeError):
                os.write(hand_on, json.dumps(next_job(timeout=_LOOK_EVERY)).encode() + b"\n")
        return os.waitpid(child, 0)[1]
    finally:
        os.close(hand_on)


def _write_to(log: str) -> None:
    """Let standard output and error be a file of this evaluation's own."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for standard in (1, 2):
        os.dup2(file, standard)
    os.close(file)


if __name__ == "__main__":
    main()
