"""The deployments of `deployments/prefect.yaml`, created through Prefect's API.

`prefect deploy` reads the same file. Other than there, a user's edits in Prefect stay.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from flows.stack.deployment_edits import Fields, Settled, group, settle, spread
from flows.stack.deployment_fields import (
    DIRECTORY_FIELD,
    job_variables,
    of_file,
    of_server,
    schedule_of,
)
from merge_core.files.strict_yaml import load_yaml
from merge_core.text.plain import plain
from tasks.processes.shipped_files import shipped

DIRECTORY = shipped("deployments")
WORK_POOL = "mergeflow"


@dataclass(frozen=True)
class Deployed:
    """What became of one deployment."""

    name: str
    """`FLOW/DEPLOYMENT`."""
    id: UUID
    given: Fields
    """The values to remember as given by the file."""
    existed: bool = True
    said: Sequence[str] = ()
    """Messages for a person: values of the file that were left out."""


def read_deployments() -> list[dict[str, Any]]:
    """The entries of `prefect.yaml`, without those whose flow is not installed."""
    shipped = load_yaml(DIRECTORY / "prefect.yaml")["deployments"]
    return [entry for entry in shipped if _is_there(entry["entrypoint"])]


def former_deployments(name: str) -> list[dict[str, Any]]:
    """What earlier versions shipped under a name."""
    former = load_yaml(DIRECTORY / "former_deployments.yaml")["deployments"]
    return [entry for entry in former if entry["name"] == name]


def create_deployment(
    client: SyncPrefectClient, entry: dict[str, Any], directory: Path, last: Fields | None = None
) -> Deployed:
    """Create one deployment, or bring it up to date where the user has not edited it.

    Args:
        directory: where relative paths in the parameters start.
        last: the values that the file gave to it last, if they were noted.
    """
    flow = _flow(entry["entrypoint"])
    name = f"{flow.name}/{entry['name']}"
    file = of_file(entry, directory)
    known = _existing(client, name)
    if known is None:
        made = _create(flow, entry, file)
        client.update_deployment(made, DeploymentUpdate(parameter_openapi_schema=_form(flow)))
        return Deployed(name, made, file, existed=False)
    there = of_server(known)
    former = [of_file(each, directory) for each in former_deployments(entry["name"])]
    settled = settle(file, there, last, former)
    settled.take(DIRECTORY_FIELD, file)
    said = [*_fit(settled, file, name, flow), *settled.said_of(name)]
    client.update_deployment(known.id, _update(flow, entry, settled.fields, there))
    _update_schedules(client, known, entry, settled.fields)
    return Deployed(name, known.id, settled.given, said=said)


def _create(flow: Flow[..., Any], entry: dict[str, Any], fields: Fields) -> UUID:
    made: Any = flow.to_deployment(
        entry["name"],
        description=fields["description"],
        tags=fields["tags"],
        parameters=group(fields, "parameters"),
        concurrency_limit=ConcurrencyLimitConfig(**fields["concurrency_limit"]),
        work_pool_name=fields["work_pool"],
        job_variables=job_variables(fields),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    made.schedules = [_new_schedule(spec) for spec in entry.get("schedules", [])]
    made_id: UUID = made.apply()
    return made_id


def _update(
    flow: Flow[..., Any], entry: dict[str, Any], fields: Fields, there: Fields
) -> DeploymentUpdate:
    """The values that differ from the deployment's, and those that are never the user's."""
    changes: dict[str, Any] = {
        "parameters": group(fields, "parameters"),
        "job_variables": job_variables(fields),
    }
    for field, name in {
        "description": "description",
        "tags": "tags",
        "work_pool": "work_pool_name",
    }.items():
        if fields[field] != there[field]:
            changes[name] = fields[field]
    limit = fields["concurrency_limit"]
    if limit != there["concurrency_limit"]:
        changes["concurrency_limit"] = limit["limit"]
        changes["concurrency_options"] = {"collision_strategy": limit["collision_strategy"]}
    return DeploymentUpdate(
        version=flow.version,
        entrypoint=entry["entrypoint"],
        parameter_openapi_schema=_form(flow),
        # Earlier versions had one, which would send a run elsewhere before the flow is imported.
        pull_steps=None,
        path=None,
        **changes,
    )


def _form(flow: Flow[..., Any]) -> dict[str, Any]:
    """The schema by which Prefect checks an order of a run. A key that the flow does not have is
    refused; Prefect alone would make the run, whose process then ends without a word."""
    return {**parameter_schema(flow).model_dump(exclude_unset=True), "additionalProperties": False}


def _fit(settled: Settled, file: Fields, name: str, flow: Flow[..., Any]) -> list[str]:
    """Take the file's parameters where the edited ones fit the flow's form no more; says so."""
    kept = group(settled.fields, "parameters")
    schema = parameter_schema(flow).model_dump_for_openapi()
    wrong = [error.message for error in validate(kept, schema, ignore_required=True)]
    wrong += [f"it has no {key}" for key in kept if key not in schema["properties"]]
    if not wrong:
        return []
    for field in spread("parameters", kept | group(file, "parameters")):
        settled.take(field, file)
    return [
        f"{name}: its parameters, edited in Prefect, do not fit the form of this version"
        f" ({plain(wrong[0], 300)}): they are the file's again, and were"
        f" {plain(json.dumps(kept, sort_keys=True), None)}"
    ]


def _update_schedules(
    client: SyncPrefectClient, known: DeploymentResponse, entry: dict[str, Any], fields: Fields
) -> None:
    """Add new schedules of the file, change those that the user left alone. Switches stay."""
    wanted, there = group(fields, "schedules"), group(of_server(known), "schedules")
    ids = {each.slug: each.id for each in known.schedules}
    for spec in entry.get("schedules", []):
        slug = spec["slug"]
        if slug in wanted and slug not in there:
            client.create_deployment_schedules(known.id, [_new_schedule(spec)])
        elif slug in wanted and wanted[slug] != there[slug]:
            client.update_deployment_schedule(known.id, ids[slug], schedule=schedule_of(spec))


def _new_schedule(spec: dict[str, Any]) -> DeploymentScheduleCreate:
    return DeploymentScheduleCreate(
        schedule=schedule_of(spec), active=spec["active"], slug=spec["slug"]
    )


def _flow(entrypoint: str) -> Flow[..., Any]:
    """The flow at `MODULE.NAME`. Prefect's own function for it puts the current directory first
    among the places to import from; runs start in an empty one, and `pull: []` leaves them there.
    """
    module, _, name = entrypoint.rpartition(".")
    found: Flow[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _is_there(entrypoint: str) -> bool:
    module = entrypoint.rpartition(".")[0]
    return importlib.util.find_spec(module) is not None


def _existing(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None
