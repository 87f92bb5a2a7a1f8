"""A process that merges groups: `python -m tasks.processes.merge_worker`, started by
`tasks.processes.merge`.

It takes any group that nobody holds, until all are finished: so the groups of a worker that died,
whose locks the kernel frees, are taken by those that live. Messages: {"group"} before each group,
and at the end {"finished"} or {"error"}.
"""

from __future__ import annotations

import time
import traceback
from pathlib import Path
from typing import Any

from merge_core.distributed.job import read_job
from merge_core.distributed.worker import is_finished, merge_group
from merge_core.errors import MergeflowError, StepError, error_values, one_line
from tasks.processes.child import Send, take_job
from tasks.processes.model import end_here

_POLL = 0.05


def main() -> None:
    """Work on the merge that standard input names; exit status 0 when an end was told."""
    job, send = take_job()
    try:
        _work(job, send)
        send({"finished": True})
    except MergeflowError as error:
        send({"error": error_values(error)})
    except Exception as error:
        traceback.print_exc()
        send({"error": error_values(StepError(f"{type(error).__name__}: {one_line(error)}"))})
    end_here()


def _work(job: dict[str, Any], send: Send) -> None:
    directory, attempt = Path(job["directory"]), str(job["attempt"])
    device = _own_device(job["device"], job["slot"])
    merge = read_job(directory)
    assert merge is not None  # it was written by the process that started this one
    left = dict.fromkeys(range(len(merge.groups)))
    while left:
        before = len(left)
        for number in list(left):
            if not is_finished(directory, merge, number):
                send({"group": number})
                options = {"device": device, "threads": job["threads"], "wait": False}
                if merge_group(directory, attempt, number, **options) is None:
                    continue
            del left[number]
        if len(left) == before:
            time.sleep(_POLL)


def _own_device(device: str, slot: int) -> str:
    """`cuda` spread over the machine's GPUs; anything else as it is."""
    if device != "cuda":
        return device
    import torch

    return f"cuda:{slot % max(1, torch.cuda.device_count())}"


if __name__ == "__main__":
    main()
