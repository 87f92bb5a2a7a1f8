"""What processes that load a model share, on both sides: environment, device, the last words.

Such a process is started by `tasks.processes.child.run_child`, sends {"done", "total"} while it
works and then {"result"} or {"problem"}.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from merge_core.homes.home import Home
from tasks.processes.child import Send, take_job
from tasks.processes.own_python import for_code_of_others
from tasks.processes.secret_variables import without_secrets

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Environment that keeps libraries from the network."""

_QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Left by torchrun and the like; libraries would wait for processes that are not there."""


def model_environment(threads: int | None, keep: Iterable[str] = ()) -> dict[str, str]:
    """This process's environment, made fit for a child that computes on `threads` threads.

    Passwords are left out: what such a child runs, a suite or a model's files, is code.

    Args:
        keep: names of variables that it needs although they hold a secret.
    """
    public = without_secrets(os.environ, Home.if_believed(make=False), keep)
    # Threads that wait for work by spinning halve the speed of models that run side by side.
    kept = {"OMP_WAIT_POLICY": "PASSIVE"} | {
        name: value for name, value in for_code_of_others(public).items() if name not in _LAUNCHER
    }
    if threads is not None:
        kept["OMP_NUM_THREADS"] = str(threads)
    return kept | _QUIET


def resolved_device_kind(device: str) -> str:
    """`cpu` or `cuda`: what `device` means on this machine."""
    if device == "auto":
        if "+cpu" in version("torch"):
            return "cpu"
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    return device.partition(":")[0]


def last_lines(log: Path, count: int = 4) -> list[str]:
    """The last lines that say something: no progress bars, no blank lines, no source echo."""
    try:
        text = log.read_bytes()[-65536:].decode(errors="replace")
    except OSError:
        return []
    lines = [line.rpartition("\r")[2].rstrip() for line in text.split("\n")]
    said = [
        line
        for line in lines
        if line.strip(" ^~") and "it/s]" not in line and "?it" not in line and "s/it]" not in line
    ]
    return [line[:300] for line in said[-count:]]


class Problem(Exception):  # noqa: N818 - a message for the parent, which raises the error
    """Something a person can mend, with the place in the file that asked for it if it is there."""

    def __init__(self, what: str, *, place: str | None = None, mend: str | None = None) -> None:
        super().__init__(what)
        self.message = {"what": what, "place": place, "mend": mend, "bug": False}


def do_job(work: Callable[[dict[str, Any], Send], dict[str, Any]]) -> None:
    """Do the job on standard input; exit status 0 when a result or a problem was sent."""
    job, send = take_job()
    answer(lambda: work(job, send), send, "result")
    end_here()


def answer(work: Callable[[], Any], send: Send, kind: str) -> bool:
    """Send what work comes to as a message of this kind, or the problem that it met; whether it
    was the former. What comes to nothing is told as true."""
    try:
        made = work()
        send({kind: True if made is None else made})
        return True
    except Problem as problem:
        send({"problem": problem.message})
    except Exception as error:
        traceback.print_exc()
        what = f"{type(error).__name__}: {error}".strip()
        send({"problem": {"what": what, "place": None, "mend": None, "bug": True}})
    return False


def end_here() -> NoReturn:
    """End this process. Nothing is left to save, and tearing torch down takes as long as a small
    evaluation."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def torch_device(wanted: str) -> str:
    """The device to compute on.

    Raises:
        Problem: this machine does not have it.
    """
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    count = torch.cuda.device_count() if wanted.startswith("cuda") else 0
    known = ["cpu", *(["cuda"] if count else []), *(f"cuda:{number}" for number in range(count))]
    if wanted not in known:
        raise Problem(
            f"no device '{wanted}' on this machine", mend="use one of: auto, " + ", ".join(known)
        )
    return wanted
