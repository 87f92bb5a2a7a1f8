"""How many processors this process may use: what it is pinned to, and what its container may spend.

A container's limit (`docker run --cpus`, a pod's `resources.limits.cpu`) leaves all processors in
sight. Whoever starts a thread for each of them is stopped for most of each period by the kernel.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath


def processors() -> int:
    """Processors that this process can keep busy, at least one."""
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), _quota())))


@lru_cache(maxsize=1)
def _quota() -> float:
    return quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))


def quota(membership: Path, mount: Path) -> float:
    """Processor time for each unit of time that control groups allow; infinite without a limit.

    Args:
        membership: the file that names the groups of a process.
        mount: where control groups are mounted, of version 2, or 1 with a directory for each kind.
    """
    allowed = math.inf
    for line in _text(membership).split("\n"):
        number, _, rest = line.partition(":")
        kinds, _, group = rest.partition(":")
        if not number or not group:
            continue
        if not kinds:
            found = (_ratio(_words(it / "cpu.max")) for it in _directories(mount, group))
            allowed = min([allowed, *found])
        elif "cpu" in kinds.split(","):
            for root in (mount / kinds, mount / "cpu"):
                allowed = min([allowed, *map(_of_version_1, _directories(root, group))])
    return allowed


def _directories(root: Path, group: str) -> Iterator[Path]:
    """The directories of a group and of all groups above it. A container may see its own group
    only, as the root."""
    path = PurePosixPath(group.lstrip("/"))
    for each in (path, *path.parents):
        yield root / each


def _of_version_1(directory: Path) -> float:
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    return _ratio([word for name in names for word in _words(directory / name)])


def _words(file: Path) -> list[str]:
    return _text(file).split()


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8", "surrogateescape")
    except (OSError, ValueError):  # the latter for a name that holds a zero
        return ""


def _ratio(words: list[str]) -> float:
    match words:
        case [allowed, period] if allowed.isdecimal() and period.isdecimal() and int(period):
            return int(allowed) / int(period)
    return math.inf  # "max" or -1: no limit
