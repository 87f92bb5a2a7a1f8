"""The automations of `deployments/automations.yaml` on a Prefect server, and what became of them.

An automation that still is as some version of mergeflow shipped it is brought up to date. One that
the user edited stays as it is; where it waits for what no run sends any more, that is said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import DoNothing, SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore

from flows.stack.deployments import DIRECTORY
from flows.steps.endings import Ending
from merge_core.files.strict_yaml import load_yaml
from merge_core.text.plain import plain

NOTIFICATION_BLOCK = "mergeflow"
"""Name of the notification block that automations send to, whatever its type."""

_SUBJECT = (
    "{{ flow.name }}: {{ flow_run.name }} {{ event.payload.ending or 'is ' ~ flow_run.state.name }}"
)
_FORMER_SUBJECT = "{{ flow.name }}: {{ flow_run.name }} is {{ flow_run.state.name }}"
_BODY = "{{ flow_run.state.message or '' }}\n\n{{ flow_run|ui_url }}"

_FORMER_NAMES = {
    "Promoted": Ending.PROMOTED,
    "FellBack": Ending.FELL_BACK,
    "NothingNew": Ending.NOTHING_NEW,
    "DryRun": Ending.DRY_RUN,
}
"""Former names of states, up to commit 63696b2; Prefect made events of them."""
_WAITS_FOR = re.compile(rf'"((?:prefect\.flow-run\.)?({"|".join(_FORMER_NAMES)}))"')
_ANY_SUCCESS = '"prefect.flow-run.Completed"'


def create_automations(client: SyncPrefectClient) -> list[str]:
    """Create those that are missing, update those that are as shipped, connect the user's block.

    Returns:
        Changes that a person has to make in edited automations, a sentence for each.
    """
    block = _notification_block(client)
    former = list(load_yaml(DIRECTORY / "former_automations.yaml")["automations"])
    for entry in load_yaml(DIRECTORY / "automations.yaml")["automations"]:
        name, wanted = entry["name"], _automation(entry, _action(block, _SUBJECT))
        found = client.read_automations_by_name(name)
        if not found:
            client.create_automation(wanted)
            continue
        known = found[0]
        shipped = [entry, *(each for each in former if each["name"] == name)]
        if any(_is(known, each) for each in _as_shipped(shipped, block)):
            new = wanted.model_copy(update={"enabled": known.enabled, "tags": known.tags})
            if not _is(known, new):
                client.update_automation(known.id, new)
        elif (
            block
            and entry.get("notify")
            and [each.type for each in known.actions] == [DoNothing().type]
        ):
            # The server's own field is one that it does not take back.
            taken = set(AutomationCore.model_fields) - {"owner_resource"}
            edited = {**known.model_dump(include=taken), "actions": wanted.actions}
            client.update_automation(known.id, AutomationCore.model_validate(edited))
    return [said for known in client.read_automations() for said in _waits_in_vain(known)]


def _as_shipped(entries: list[dict[str, Any]], block: UUID | None) -> Iterator[AutomationCore]:
    """Every form that an automation had without a hand of the user in it."""
    actions = [_action(None, _SUBJECT)]
    if block is not None:
        actions += [_action(block, subject) for subject in (_SUBJECT, _FORMER_SUBJECT)]
    for entry in entries:
        yield from (_automation(entry, action) for action in actions)


def _automation(entry: dict[str, Any], action: Any) -> AutomationCore:
    values = {key: value for key, value in entry.items() if key != "notify"}
    if entry.get("notify"):
        values["actions"] = [action]
    return AutomationCore.model_validate(values)


def _action(block: UUID | None, subject: str) -> Any:
    if block is None:
        return DoNothing()
    return SendNotification(block_document_id=block, subject=subject, body=_BODY)


def _is(known: AutomationCore, shipped: AutomationCore) -> bool:
    return told(known) == told(shipped)


def told(automation: AutomationCore) -> dict[str, Any]:
    """Its trigger and actions: all but its name, and its switch and tags, which are the user's."""
    kept = {"description", "trigger", "actions", "actions_on_trigger", "actions_on_resolve"}
    found: dict[str, Any] = _bare(automation.model_dump(mode="json", include=kept))
    return found


def _bare(value: Any) -> Any:
    """Without the ids that a server gives, and sets as sets."""
    if isinstance(value, dict):
        return {key: _bare(each) for key, each in value.items() if key != "id"}
    if isinstance(value, list):
        return sorted((_bare(each) for each in value), key=json.dumps)
    return value


def _waits_in_vain(automation: Automation) -> Iterator[str]:
    """The change to an automation that waits for the name of a state that no run has any more.

    Where it waits for `Completed` besides, nothing is missed.
    """
    trigger = json.dumps(automation.trigger.model_dump(mode="json"))
    if _ANY_SUCCESS in trigger:
        return
    for former, name in dict(_WAITS_FOR.findall(trigger)).items():
        yield (
            f"the automation '{plain(automation.name, 200)}' is kept as it was edited: it waits for"
            f" {former}, which no run sends any more; edit it in Prefect (Automations) to wait for"
            f" the event {_FORMER_NAMES[name].event}"
        )


def _notification_block(client: SyncPrefectClient) -> UUID | None:
    for block in client.read_block_documents(include_secrets=False):
        kind = block.block_type
        if block.name == NOTIFICATION_BLOCK and kind is not None:
            schema = block.block_schema
            if schema is not None and "notify" in schema.capabilities:
                return block.id
    return None
