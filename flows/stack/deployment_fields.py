"""A deployment as fields, from the file and from the server, in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import SCHEDULE_TYPES, construct_schedule

from flows.environment.starting_directory import VARIABLE
from flows.stack.deployment_edits import Fields, group, spread

DIRECTORY_FIELD = f"job_variables.env.{VARIABLE}"
"""Where relative paths start: always the directory of this `up`."""


def of_file(entry: dict[str, Any], directory: Path) -> Fields:
    """The fields of an entry of `prefect.yaml`."""
    variables = dict(entry["work_pool"].get("job_variables", {}))
    environment = variables.pop("env", {}) | {VARIABLE: str(directory)}
    schedules = {
        spec["slug"]: _schedule_fields(schedule_of(spec)) for spec in entry.get("schedules", [])
    }
    return {
        "description": entry["description"],
        "tags": sorted(entry.get("tags", [])),
        "concurrency_limit": entry["concurrency_limit"],
        "work_pool": entry["work_pool"]["name"],
        **spread("parameters", entry.get("parameters", {})),
        **spread("job_variables", variables),
        **spread("job_variables.env", environment),
        **spread("schedules", schedules),
    }


def of_server(known: DeploymentResponse) -> Fields:
    """The fields of a deployment as it is; a schedule without a slug is the user's own."""
    variables = dict(known.job_variables)
    environment = variables.pop("env", {})
    limit, options = known.global_concurrency_limit, known.concurrency_options
    limits = None
    if limit is not None:
        strategy = options.collision_strategy.value if options else "ENQUEUE"
        limits = {"limit": limit.limit, "collision_strategy": strategy}
    schedules = {
        each.slug: _schedule_fields(each.schedule) for each in known.schedules if each.slug
    }
    return {
        "description": known.description,
        "tags": sorted(known.tags),
        "concurrency_limit": limits,
        "work_pool": known.work_pool_name,
        **spread("parameters", known.parameters),
        **spread("job_variables", variables),
        **spread("job_variables.env", environment),
        **spread("schedules", schedules),
    }


def job_variables(fields: Fields) -> dict[str, Any]:
    """Job variables as Prefect takes them."""
    found = group(fields, "job_variables")
    others = {key: value for key, value in found.items() if not key.startswith("env.")}
    return others | {"env": group(found, "env")}


def schedule_of(spec: dict[str, Any]) -> SCHEDULE_TYPES:
    """The schedule of an entry of the file."""
    named = ("interval", "anchor_date", "cron", "rrule", "timezone")
    return construct_schedule(**{name: spec[name] for name in named if name in spec})


def _schedule_fields(schedule: SCHEDULE_TYPES) -> dict[str, Any]:
    """When it starts runs. Whether it is on is the user's, and no field."""
    return schedule.model_dump(mode="json")
