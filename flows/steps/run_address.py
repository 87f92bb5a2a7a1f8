"""Where the page of the current run is in Prefect, for a link in MLflow."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from prefect import runtime

from merge_core.homes.home import Home
from tasks.servers.stack_record import running_stack

_HERE = ("localhost", "127.0.0.1", "::1")


def run_address(home: Home) -> str | None:
    """The address of the run's page; None where its server ends with this command.

    A server on this machine that is not the stack's is taken for the one that a single command
    starts: a link to it would lead nowhere from then on.
    """
    api = os.environ.get("PREFECT_API_URL", "")
    stack = running_stack(home)
    own = stack is not None and stack.api == api
    if not runtime.flow_run.id or not api or not (own or urlsplit(api).hostname not in _HERE):
        return None
    return f"{api.rstrip('/').removesuffix('/api')}/v2/runs/flow-run/{runtime.flow_run.id}"
