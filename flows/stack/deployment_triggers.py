"""The triggers of a deployment in `deployments/prefect.yaml`: automations that belong to it.

Prefect's own command makes them anew each time. Here one that the user edited in Prefect stays, and
so does one that they deleted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.events import DeploymentTriggerTypes
from prefect.events.schemas.automations import AutomationCore
from pydantic import TypeAdapter

from flows.stack.automations import told
from flows.stack.deployment_edits import Fields, Settled, group, settle, spread
from flows.stack.deployments import former_deployments


def create_triggers(
    client: SyncPrefectClient, entry: dict[str, Any], deployment: UUID, last: Fields | None
) -> Settled:
    """Create or update the triggers of one entry.

    Args:
        last: the values that the file gave to the deployment last, if they were noted.
    """
    wanted = _automations(entry, deployment)
    formerly = [_automations(each, deployment) for each in former_deployments(entry["name"])]
    names = {*wanted, *(name for each in formerly for name in each)}
    known = {name: found[0] for name in names if (found := client.read_automations_by_name(name))}
    settled = settle(
        _fields(wanted.values()),
        _fields(known.values()),
        None if last is None else spread("triggers", group(last, "triggers")),
        [_fields(each.values()) for each in formerly] if known else [{}],
    )
    for name, automation in wanted.items():
        value = settled.fields.get(f"triggers.{name}")
        if value != told(automation):
            continue
        if name not in known:
            client.create_automation(automation)
        elif told(known[name]) != value:
            # The owner is one that the server does not take back.
            changed = set(AutomationCore.model_fields) - {"owner_resource", "enabled", "tags"}
            new = automation.model_dump(include=changed)
            new |= {"enabled": known[name].enabled, "tags": known[name].tags}
            client.update_automation(known[name].id, AutomationCore.model_validate(new))
    return settled


def _automations(entry: dict[str, Any], deployment: UUID) -> dict[str, AutomationCore]:
    found = {}
    for spec in entry.get("triggers", []):
        trigger: Any = TypeAdapter(DeploymentTriggerTypes).validate_python(spec)
        trigger.set_deployment_id(deployment)
        found[spec["name"]] = trigger.as_automation()
    return found


def _fields(automations: Iterable[AutomationCore]) -> Fields:
    return spread("triggers", {each.name: told(each) for each in automations})
