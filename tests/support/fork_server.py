"""Runs commands of mergeflow in processes that start within milliseconds: forks of one with all
imports done. Each is a process of its own, and a kill of it is a real kill.

`python -m tests.support.fork_server` reads requests, one JSON value a line, and answers each with
one line; `tests.support.forked_commands` is the other end. A command notes what it does in a trace
file: each progress event, and each file operation below some directories before it is carried out.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flows.terminal.console
import merge_core
import tasks.calibration.measure
import tasks.sources.locate
from flows.cli.program import BAD_INPUT, run
from merge_core.errors import MergeflowError
from merge_core.homes.home import Home
from merge_core.operations.merge import merge
from merge_core.progress import Progress, ProgressEvent
from merge_core.recipes.loading import load_recipe
from merge_core.runtime.compute import Compute
from tests.support.traces import Trace

_OPERATIONS = ("open", "os.", "shutil.")
_CAPABILITY_VERSION = 0x20080522


def main() -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if "warm_up" in request:
            answer = _warm_up(**request["warm_up"])
        elif "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                _do(request)
        answers.write(f"{answer}\n")
        answers.flush()


def _warm_up(commands: list[list[str]], directory: str) -> int:
    """Run commands in this process, which leaves their imports and compiled kernels to its forks.

    All threads that they start have ended when they end, so that forks are safe.
    """
    for module in pkgutil.walk_packages(merge_core.__path__, "merge_core."):
        importlib.import_module(module.name)  # stays as it is now, whatever becomes of the files
    os.environ["MERGEFLOW_HOME"] = directory
    codes = [run(command) for command in commands]
    assert threading.active_count() == 1, threading.enumerate()
    gc.freeze()
    return max(codes, default=0)


def _do(request: dict[str, Any]) -> None:
    """The whole life of a child."""
    code = 70
    try:
        for number, name in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(name, flags, 0o600), number)
        os.environ.update(request["environment"])
        os.chdir(request["directory"])
        if request["drop_capabilities"]:
            _drop_capabilities()
        trace = Trace.begin(Path(request["trace"]))
        _note_operations(trace, tuple(request["watched"]), request["signalled"])
        code = _run(request["arguments"], trace)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _run(arguments: list[str], trace: Trace) -> int:
    """A command line of mergeflow, or `store RECIPE SHARD_BYTES`, a merge into the home's store."""
    if arguments[0] == "store":
        return _merge_into_store(Path(arguments[1]), int(arguments[2]), trace)
    shown = flows.terminal.console.Terminal.progress

    @contextmanager
    def noted(terminal: flows.terminal.console.Terminal) -> Iterator[Progress]:
        with shown(terminal) as listener:

            def listen(event: ProgressEvent) -> None:
                trace.note_progress(event)
                listener(event)

            yield listen

    flows.terminal.console.Terminal.progress = noted  # type: ignore[method-assign]
    return run(arguments)


def _merge_into_store(path: Path, shard_bytes: int, trace: Trace) -> int:
    home, recipe = Home.discover(), load_recipe(path)
    try:
        sources = tasks.sources.locate.fetch_all(
            recipe.references(), home, path.parent, progress=trace.note_progress
        )
        manifest = merge(
            recipe,
            sources,
            home=home,
            compute=Compute(threads=2),
            shard_bytes=shard_bytes,
            progress=trace.note_progress,
        )
    except MergeflowError as error:
        flows.terminal.console.explain(error)
        return BAD_INPUT
    sys.stdout.write(manifest.path + "\n")
    return 0


def _note_operations(
    trace: Trace, watched: tuple[str, ...], signalled: dict[str, Any] | None
) -> None:
    """Note each file operation below the watched directories; take a signal where told to."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_OPERATIONS):
            named = arguments[:1] if event == "open" else arguments[:2]
            paths = [str(value) for value in named if isinstance(value, (str, Path))]
            if any(path.startswith(watched) for path in paths):
                if event == "open":
                    event = "write" if arguments[2] & (os.O_WRONLY | os.O_RDWR) else "read"
                trace.note_operation(event, paths)

    def line_noted(line: str) -> None:
        if re.search(signalled["line"], line):
            trace.when_noted = None
            if signalled["after"]:
                threading.Thread(target=take_later, daemon=True).start()
            else:
                os.kill(os.getpid(), signalled["signal"])

    def take_later() -> None:
        time.sleep(signalled["after"])
        os.kill(os.getpid(), signalled["signal"])

    if signalled is not None:
        trace.when_noted = line_noted
    sys.addaudithook(hook)


def _drop_capabilities() -> None:
    """Make root an ordinary user, for whom permissions count."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    main()
