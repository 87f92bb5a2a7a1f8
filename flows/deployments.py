"""The deployments of `deployments/prefect.yaml`, created through Prefect's API.

`prefect deploy` reads the same file. Beyond what it does, schedules that exist on the server keep
what the user made of them.
"""

from __future__ import annotations

import importlib
import importlib.util
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import ConcurrencyLimitConfig, DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentTriggerTypes
from prefect.exceptions import ObjectNotFound
from prefect.flows import EntrypointType, Flow
from prefect.schedules import Schedule
from pydantic import TypeAdapter

from flows.starting_directory import VARIABLE
from merge_core.yaml_files import load_yaml
from tasks.shipped_files import shipped

DIRECTORY = shipped("deployments")
WORK_POOL = "mergeflow"


def read_deployments(file: Path = DIRECTORY / "prefect.yaml") -> list[dict[str, Any]]:
    """The entries of a `prefect.yaml`, without those whose flow is not installed."""
    return [entry for entry in load_yaml(file)["deployments"] if _is_there(entry["entrypoint"])]


def create_deployment(client: SyncPrefectClient, entry: dict[str, Any], directory: Path) -> str:
    """Create or update one deployment; its name as `FLOW/DEPLOYMENT`.

    Args:
        directory: where relative paths in the parameters start.
    """
    flow = _flow(entry["entrypoint"])
    name = f"{flow.name}/{entry['name']}"
    known = _existing(client, name)
    made: RunnerDeployment = flow.to_deployment(
        entry["name"],
        description=entry["description"],
        tags=entry.get("tags", []),
        parameters=entry.get("parameters", {}),
        schedules=_schedules(entry, known),
        triggers=[_trigger(name, spec) for spec in entry.get("triggers", [])],
        concurrency_limit=ConcurrencyLimitConfig(**entry["concurrency_limit"]),
        work_pool_name=entry["work_pool"]["name"],
        job_variables=_job_variables(entry, directory),
        paused=known.paused if known else False,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    made.apply()
    return name


def _flow(entrypoint: str) -> Flow[..., Any]:
    """The flow at `MODULE.NAME`. Prefect's own function for it puts the current directory first
    among the places to import from; runs start in an empty one, and `pull: []` leaves them there.
    """
    module, _, name = entrypoint.rpartition(".")
    found: Flow[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _job_variables(entry: dict[str, Any], directory: Path) -> dict[str, Any]:
    given = dict(entry["work_pool"].get("job_variables", {}))
    return given | {"env": given.get("env", {}) | {VARIABLE: str(directory)}}


def _is_there(entrypoint: str) -> bool:
    module = entrypoint.rpartition(".")[0]
    return importlib.util.find_spec(module) is not None


def _existing(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def _schedules(entry: dict[str, Any], known: DeploymentResponse | None) -> list[Schedule]:
    """The user's schedules as they are on the server, then those of the file that it lacks."""
    kept = [_as_it_is(schedule) for schedule in (known.schedules if known else [])]
    slugs = {schedule.slug for schedule in kept}
    new = [spec for spec in entry.get("schedules", []) if spec["slug"] not in slugs]
    return [*kept, *map(_from_file, new)]


def _from_file(spec: dict[str, Any]) -> Schedule:
    values = dict(spec)
    if "interval" in values:
        values["interval"] = timedelta(seconds=values["interval"])
    if "anchor_date" in values:
        values["anchor_date"] = datetime.fromisoformat(values["anchor_date"])
    return Schedule(**values)


def _as_it_is(schedule: DeploymentSchedule) -> Schedule:
    when = schedule.schedule
    common: dict[str, Any] = {
        "timezone": when.timezone,
        "active": schedule.active,
        "parameters": schedule.parameters,
        "slug": schedule.slug,
    }
    if isinstance(when, CronSchedule):
        return Schedule(cron=when.cron, day_or=when.day_or, **common)
    if isinstance(when, IntervalSchedule):
        return Schedule(interval=when.interval, anchor_date=when.anchor_date, **common)
    return Schedule(rrule=when.rrule, **common)


def _trigger(name: str, spec: dict[str, Any]) -> Any:
    return TypeAdapter(DeploymentTriggerTypes).validate_python({"name": name, **spec})
