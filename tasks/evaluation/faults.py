"""How an evaluation can end without a result, and what a person does about each: one sentence, one
mend, and where the log is."""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merge_core.errors import StepError
from tasks.processes.child import ChildEnd
from tasks.processes.model import last_lines

_LESS_MEMORY = "lower settings.batch_size or settings.max_length in the suite"
_MORE_ROOM = "free space there, and inodes (`df -h`, `df -i`), then run the same command again"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_SIGNALS = {
    signal.SIGKILL: (
        "was killed from outside, most likely because memory ran out",
        _LESS_MEMORY,
    ),
    signal.SIGSEGV: (
        "crashed in compiled code (segmentation fault)",
        "the log ends in the place; try `device: cpu`, settings.dtype float32 or a smaller"
        " settings.batch_size, and install torch again if that does not help",
    ),
    signal.SIGABRT: (
        "was ended by a library that gave up (abort)",
        "the log ends in the reason; a GPU driver or a C++ library prints it just before",
    ),
    signal.SIGBUS: (
        "crashed on memory that is not there (bus error): a file it reads became shorter, or"
        " /dev/shm is full",
        "see that nothing writes to the checkpoint meanwhile, and free /dev/shm (`df -h /dev/shm`)",
    ),
    signal.SIGTERM: ("was told to end from outside", "run the same command again"),
}
_IN_WORDS = (
    (
        r"no space left|errno 28|disk quota|errno 122",
        "the disk is full, or has no inodes left, where the evaluation works",
        _MORE_ROOM,
    ),
    (r"out of memory|memoryerror|cannot allocate memory", None, _LESS_MEMORY),
    (
        r"connectionerror|localentrynotfound|offline",
        None,
        "the suite's data is on the Hub: let this machine reach it once, or use a suite whose data"
        " is beside it",
    ),
    (
        r"^stopiteration|raised stopiteration",
        "a task of the suite ran out of documents (StopIteration)",
        "see that each data file, and the split that num_fewshot draws examples from, has enough"
        " documents; the log says which task",
    ),
    (
        r"^keyerror|undefinederror",
        None,
        "a task's template or code names a field that a document does not have: compare"
        " doc_to_text, doc_to_target and the data; the log says which task",
    ),
)
"""Pattern of a child's last words, what they mean if not what they say, and the mend."""


def no_result(
    where: str,
    end: ChildEnd,
    messages: Mapping[str, Any],
    log: Path,
    *,
    minutes: float,
) -> StepError:
    """The evaluation failed, died or was killed.

    Args:
        where: what was evaluated with what.
        messages: what the process sent before it ended.
        minutes: what the suite allows it.
    """
    problem = messages.get("problem")
    shown = [f"    | {line}" for line in last_lines(log)]
    if end.timed_out:
        done = f"{messages['done']} of {messages['total']}" if "done" in messages else "no"
        what = f"was killed: not finished in {minutes:g} minutes ({done} documents done)"
        mend = "raise timeout_minutes or lower settings.limit in the suite, or use a faster device"
    elif problem:
        said, mend = _in_words(str(problem["what"]))
        what, shown = f"failed: {said[:600]}", []
    elif end.code is not None and end.code < 0:
        what, mend = _by_signal(-end.code)
    else:
        what = f"ended with exit status {end.code} and no result"
        mend = "code of the suite or of a library ended the process; the end of the log says where"
    details = [*shown, f"  whole log: {log}"]
    return StepError(f"lm-eval {what}", details=details, where=where, mend=mend)


def cannot_begin(where: str, scratch: Path, error: OSError) -> StepError:
    """Not even the working files of an evaluation could be made."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        mend = _MORE_ROOM
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        mend = "close other programs, or raise `ulimit -n`"
    else:
        mend = "make this directory writable, or name another home with MERGEFLOW_HOME"
    return StepError(
        f"the evaluation could not begin: {reason} ({scratch})", where=where, mend=mend
    )


def _in_words(said: str) -> tuple[str, str]:
    for pattern, meaning, mend in _IN_WORDS:
        if re.search(pattern, said, re.IGNORECASE):
            return meaning or said, mend
    return said, "read the log; it ends in a traceback"


def _by_signal(number: int) -> tuple[str, str]:
    try:
        known = signal.Signals(number)
    except ValueError:
        return f"was ended by signal {number}", "read the log"
    return _SIGNALS.get(known, (f"was ended by {known.name}", "read the log"))
