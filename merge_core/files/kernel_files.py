"""Whether a path is in a file system of the kernel's, whose files stand for processes and devices.

Nothing can be kept in them, and a file that is made in one can be an order to the kernel.
"""

from __future__ import annotations

import os
from pathlib import Path

_KERNELS = frozenset(
    {
        *("proc", "sysfs", "cgroup", "cgroup2", "devpts", "debugfs", "tracefs", "securityfs"),
        *("pstore", "bpf", "configfs", "mqueue", "fusectl", "efivarfs", "binfmt_misc"),
        *("selinuxfs", "smackfs", "hugetlbfs", "rpc_pipefs", "nfsd", "nsfs", "devtmpfs"),
    }
)


def kernel_file_system(path: Path) -> str | None:
    """The name of the kernel's file system that a path is in, or would be made in; else None.

    Linux alone says so; elsewhere the answer is None.

    Raises:
        OSError: nothing of the path can be looked at.
    """
    path = path.absolute()
    while not os.path.lexists(path):
        path = path.parent
    try:
        table = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return None
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in table.splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == number:
            name = source.split()[0]
            return name if name in _KERNELS else None
    return None
