"""Whether a server is up: what Prefect's and MLflow's `/health` say."""

from __future__ import annotations

import urllib.request


def answers(address: str, timeout: float = 2.0) -> bool:
    """Whether a server answers there with status 200."""
    try:
        with urllib.request.urlopen(address, timeout=timeout) as answer:
            return bool(answer.status == 200)
    except OSError:  # of which urllib's own errors are
        return False
