"""How many files this process may hold open: a merge of many shards needs more than the usual.

The soft limit is a default that a process may raise itself, up to the hard limit.
"""

from __future__ import annotations

import resource

_RESERVE = 128
"""For everything else: the result's files, libraries, connections."""
_MOST = 1 << 16
TO_RAISE = (
    "more files would be open than this shell allows a process: allow more with `ulimit -n 65536`"
    " (or as many as `ulimit -Hn` says; a service has its limit in its unit, LimitNOFILE)"
)
"""What to do where the hard limit is reached."""


def make_room(opened: int) -> bool:
    """Raise the soft limit where little is left beside so many open files.

    Returns:
        Whether more files can be opened than before.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft == resource.RLIM_INFINITY or opened + _RESERVE < soft or wanted <= soft:
        return False
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return False
    return True
