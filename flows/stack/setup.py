"""Sets up a Prefect server so that it can run merges.

Everything here may be done again at any time: existing things are kept, and the user's changes
in the UI stay.
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker

from flows.gpu_slot import ensure_gpu_limit
from flows.stack.automations import create_automations
from flows.stack.deployment_edits import GivenDeployments
from flows.stack.deployment_triggers import create_triggers
from flows.stack.deployments import WORK_POOL, create_deployment, read_deployments
from merge_core.homes.home import Home


class Prepared(NamedTuple):
    """A server that is ready for runs."""

    deployments: list[str]
    said: list[str]
    """Messages for a person about their edits in Prefect."""


def set_up(client: SyncPrefectClient, directory: Path, home: Home) -> Prepared:
    """Create limits, deployments and automations, or bring them up to date.

    Args:
        directory: where relative paths in forms start.
        home: the home in which the values of each deployment are noted.
    """
    ensure_gpu_limit()
    memory = GivenDeployments(home)
    prepared = Prepared([], [])
    for entry in read_deployments():
        deployed = create_deployment(client, entry, directory, memory.of(entry["name"]))
        last = memory.of(entry["name"]) if deployed.existed else {}
        triggers = create_triggers(client, entry, deployed.id, last)
        memory.keep(entry["name"], deployed.given | triggers.given)
        prepared.deployments.append(deployed.name)
        prepared.said.extend([*deployed.said, *triggers.said_of(deployed.name)])
    prepared.said.extend(create_automations(client))
    return prepared


def create_work_pool(client: SyncPrefectClient) -> None:
    """The pool whose worker runs flows as processes of this machine."""
    template = ProcessWorker.get_default_base_job_template()
    pool = WorkPoolCreate(name=WORK_POOL, type=ProcessWorker.type, base_job_template=template)
    try:
        client.create_work_pool(pool)
    except ObjectAlreadyExists:
        return


def workers_online(client: SyncPrefectClient, since: datetime) -> set[str]:
    """Names of the workers that have reported to the pool after a moment."""
    workers = client.read_workers_for_work_pool(WORK_POOL)
    return {
        worker.name
        for worker in workers
        if worker.last_heartbeat_time and worker.last_heartbeat_time > since
    }


def main() -> None:
    """Set up the server that PREFECT_API_URL names; relative paths in forms start here."""
    with get_client(sync_client=True) as client:
        create_work_pool(client)
        prepared = set_up(client, Path.cwd(), Home.discover())
        print("\n".join(prepared.deployments))
        for sentence in prepared.said:
            print(f"warning: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    main()
