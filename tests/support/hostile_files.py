"""Checkpoints as an attacker would write them: small, and wrong in one place."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def weights(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A weight file with any header; `length` in place of the header's own."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    """One tensor of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def sound(*names: str) -> bytes:
    """A valid file with these tensors of two float32."""
    header = {name: tensor(offsets=(8 * i, 8 * i + 8)) for i, name in enumerate(names)}
    return weights(header, bytes(8 * len(names)))


def put(directory: Path, **files: Any) -> Path:
    """Write files, `__` in a name standing for a dot: bytes and texts as they are, else JSON."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = directory / name.replace("__", ".")
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return directory


def sharded(directory: Path, index: Any = None) -> Path:
    """A valid checkpoint of two shards, or with any other index."""
    put(directory, config__json={})
    (directory / FIRST).write_bytes(sound("a"))
    (directory / SECOND).write_bytes(sound("b"))
    index = {"metadata": {}, "weight_map": {"a": FIRST, "b": SECOND}} if index is None else index
    (directory / INDEX).write_text(index if isinstance(index, str) else json.dumps(index))
    return directory


@dataclass(frozen=True)
class Outcome:
    """What a process that opened a checkpoint said, and what it took."""

    message: str
    """The refusal; empty where the checkpoint was accepted."""
    seconds: float
    """CPU time of the opening."""
    mebibytes: int
    """Peak memory over what the process had before."""


_OPENER = """
import json, resource, sys, time
from pathlib import Path
from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.errors import MergeflowError
limit = int(sys.argv[2]) << 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before, began, message = peak(), time.process_time(), ""
try:
    open_checkpoint(Path(sys.argv[1]))
except MergeflowError as error:
    message = str(error)
print(json.dumps([message, time.process_time() - began, peak() - before]))
"""


def opened_apart(directory: Path, limit: int = 6144) -> Outcome:
    """Open a checkpoint in a process of its own, which has at most `limit` MiB of addresses."""
    done = subprocess.run(
        [sys.executable, "-c", _OPENER, str(directory), str(limit)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return Outcome(*json.loads(done.stdout))
