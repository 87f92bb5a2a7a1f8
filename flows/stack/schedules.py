"""Switching the schedules of the local stack, or of the server that PREFECT_API_URL names."""

from __future__ import annotations

import os

from merge_core.errors import MergeflowError, did_you_mean
from merge_core.homes.home import Home
from tasks.servers.stack_record import running_stack


def switch_schedule(home: Home, name: str, *, active: bool) -> str:
    """Switch a schedule on or off; returns the change in words.

    Args:
        name: `DEPLOYMENT/SCHEDULE`.

    Raises:
        MergeflowError: no server, or no schedule of this name.
    """
    stack = running_stack(home)
    if stack is not None and os.environ.get("PREFECT_API_URL", stack.api) == stack.api:
        os.environ.update(stack.environment(home))
        os.environ.setdefault("PREFECT_HOME", str(home.prefect))
    if "PREFECT_API_URL" not in os.environ:
        raise MergeflowError(
            "no Prefect server runs here, and schedules are kept by it",
            mend="start one with `mergeflow up`, or set PREFECT_API_URL",
        )
    from prefect import get_client

    from flows.stack.status import when

    with get_client(sync_client=True) as client:
        found = {
            f"{deployment.name}/{schedule.slug or schedule.id}": (deployment, schedule)
            for deployment in client.read_deployments()
            for schedule in deployment.schedules
        }
        if name not in found:
            raise MergeflowError(
                f"there is no schedule '{name}'; {did_you_mean(name, found)}", where="schedule"
            )
        deployment, schedule = found[name]
        client.update_deployment_schedule(deployment.id, schedule.id, active=active)
    state = "on" if active else "off"
    return f"{name} is {state}: {when(schedule.schedule)}"
