"""What a Prefect server needs before it can run merges.

Everything here may be done again at any time: what exists is kept, and what the user changed in the
UI stays changed.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.actions import DoNothing, SendNotification
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker

from flows.deployments import DIRECTORY, WORK_POOL, create_deployment, read_deployments
from flows.steps import ensure_gpu_limit
from merge_core.yaml_files import load_yaml

NOTIFICATION_BLOCK = "mergeflow"
"""Name of the notification block that automations send to, whatever its type."""

_SUBJECT = "{{ flow.name }}: {{ flow_run.name }} is {{ flow_run.state.name }}"
_BODY = "{{ flow_run.state.message or '' }}\n\n{{ flow_run|ui_url }}"


def set_up(client: SyncPrefectClient, directory: Path) -> list[str]:
    """Create limits, deployments and automations; the deployments' names.

    Args:
        directory: where relative paths in forms start.
    """
    ensure_gpu_limit()
    names = [create_deployment(client, entry, directory) for entry in read_deployments()]
    create_automations(client)
    return names


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


def create_automations(client: SyncPrefectClient) -> None:
    """Those of `deployments/automations.yaml` that are missing; connects a notification block."""
    block = _notification_block(client)
    action: Any = DoNothing()
    if block is not None:
        action = SendNotification(block_document_id=block, subject=_SUBJECT, body=_BODY)
    for entry in load_yaml(DIRECTORY / "automations.yaml")["automations"]:
        wants = entry.pop("notify", False)
        if wants:
            entry["actions"] = [action]
        found = client.read_automations_by_name(entry["name"])
        if not found:
            client.create_automation(AutomationCore.model_validate(entry))
        elif wants and block and [each.type for each in found[0].actions] == [DoNothing().type]:
            # The server's own field is one that it does not take back.
            taken = set(AutomationCore.model_fields) - {"owner_resource"}
            known = found[0].model_dump(include=taken)
            connected = AutomationCore.model_validate({**known, "actions": [action]})
            client.update_automation(found[0].id, connected)


def _notification_block(client: SyncPrefectClient) -> UUID | None:
    for block in client.read_block_documents(include_secrets=False):
        kind = block.block_type
        if block.name == NOTIFICATION_BLOCK and kind is not None:
            schema = block.block_schema
            if schema is not None and "notify" in schema.capabilities:
                return block.id
    return None


def main() -> None:
    """Set up the server that PREFECT_API_URL names; relative paths in forms start here."""
    with get_client(sync_client=True) as client:
        create_work_pool(client)
        print("\n".join(set_up(client, Path.cwd())))


if __name__ == "__main__":
    main()
