"""What `mergeflow status` shows: whether the local stack works, its schedules and last runs."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from flows.stack.health import answers
from flows.stack.links import show_links
from flows.terminal.console import Terminal, add_row, cell, seconds, shown_path
from merge_core.homes.home import Home
from tasks.servers.stack_record import StackRecord, running_stack

if TYPE_CHECKING:
    from prefect.client.schemas.objects import WorkPoolStatus

_RUNS = 8


@dataclass(frozen=True)
class ScheduleStatus:
    """One schedule of one deployment."""

    name: str
    """`DEPLOYMENT/SCHEDULE`, as `mergeflow schedule` takes it."""
    when: str
    active: bool


@dataclass(frozen=True)
class RunStatus:
    """One of the last runs."""

    name: str
    state: str
    started: str | None
    duration_s: float
    tags: tuple[str, ...]
    against: str | None = None
    """Whom it was judged against, where that is not the base alone."""


@dataclass(frozen=True)
class StackStatus:
    """The stack as a whole."""

    home: str
    prefect: str | None = None
    mlflow: str | None = None
    records: str | None = None
    """The databases behind both."""
    prefect_answers: bool = False
    mlflow_answers: bool = False
    workers: tuple[str, ...] = ()
    """Workers that are online."""
    pool: str | None = None
    """`ready`, `paused` or `not ready`."""
    deployments: tuple[str, ...] = ()
    forms: dict[str, str] = field(default_factory=dict)
    """Addresses of the pages that start a merge, by the form's name."""
    schedules: tuple[ScheduleStatus, ...] = ()
    automations: tuple[str, ...] = ()
    runs: tuple[RunStatus, ...] = ()
    logs: str = field(default="")

    @property
    def healthy(self) -> bool:
        """Whether a run that is started now would be carried out."""
        return self.prefect_answers and self.mlflow_answers and bool(self.workers)

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {"healthy": self.healthy, **asdict(self)}


def read_status(home: Home) -> StackStatus:
    """The state of the stack on this home; most of it unknown when none runs."""
    record = running_stack(home)
    if record is None:
        return StackStatus(home=str(home.path), logs=str(home.logs))
    common: dict[str, Any] = {
        "home": str(home.path),
        "prefect": record.prefect,
        "mlflow": record.mlflow,
        "records": record.records,
        "mlflow_answers": answers(f"{record.mlflow}/health"),
        "logs": str(home.logs),
    }
    if not answers(f"{record.api}/health"):
        return StackStatus(**common)
    return StackStatus(**common, prefect_answers=True, **_asked_of_prefect(home, record))


def show_status(terminal: Terminal, status: StackStatus) -> None:
    """The status for people."""
    if status.prefect is None:
        terminal.say(f"nothing runs on {shown_path(status.home)}; `mergeflow up` starts it")
        return
    _line(terminal, "Prefect", status.prefect_answers, status.prefect, status.logs)
    _line(terminal, "MLflow", status.mlflow_answers, str(status.mlflow), status.logs)
    workers = ", ".join(status.workers) or "none online"
    _line(terminal, "worker", bool(status.workers), f"{workers} (pool {status.pool})", status.logs)
    home = Home(Path(status.home))
    record = running_stack(home)
    if record is not None:
        show_links(terminal, home, record)
    if status.forms:
        from flows.stack.form_links import show_forms

        show_forms(terminal, status.forms)
    terminal.say(f"data      {shown_path(status.home)}")
    terminal.say(f"records   {status.records}")
    if status.schedules:
        terminal.say()
        terminal.say("schedules", style="bold")
        table = _table()
        for each in status.schedules:
            switch = cell("on", "green") if each.active else "off"
            add_row(table, each.name, each.when, switch)
        terminal.notes.print(table)
    terminal.say()
    terminal.say("last runs" if status.runs else "no runs yet", style="bold")
    table = _table()
    for run in status.runs:
        duration = seconds(run.duration_s) if run.duration_s else ""
        against = f"against {run.against}" if run.against else ""
        add_row(table, run.name, run.state, run.started or "", duration, against)
    terminal.notes.print(table)


def _line(terminal: Terminal, name: str, good: bool, what: str, logs: str) -> None:
    verdict = "healthy" if good else f"not healthy; see {shown_path(logs)}"
    terminal.say(f"{name:<10}{what}   {verdict}", style=None if good else "red")


def _table() -> Table:
    return Table(box=None, show_header=False, pad_edge=True)


def _asked_of_prefect(home: Home, record: StackRecord) -> dict[str, Any]:
    os.environ.update(record.environment(home) | {"PREFECT_HOME": str(home.prefect)})
    from prefect import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterStartTime
    from prefect.client.schemas.sorting import FlowRunSort

    from flows.stack.deployments import WORK_POOL
    from flows.stack.form_links import form_addresses
    from flows.steps.against import against_of

    with get_client(sync_client=True) as client:
        pool = client.read_work_pool(WORK_POOL)
        workers = client.read_workers_for_work_pool(WORK_POOL)
        deployments = client.read_deployments()
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(start_time=FlowRunFilterStartTime(is_null_=False)),
            sort=FlowRunSort.START_TIME_DESC,
            limit=_RUNS,
        )
        automations = client.read_automations()
    return {
        "pool": "paused" if pool.is_paused else _in_words(pool.status),
        "workers": tuple(worker.name for worker in workers if worker.status == "ONLINE"),
        "deployments": tuple(sorted(deployment.name for deployment in deployments)),
        "forms": form_addresses(deployments, record.prefect),
        "schedules": tuple(
            ScheduleStatus(
                f"{deployment.name}/{schedule.slug}", when(schedule.schedule), schedule.active
            )
            for deployment in sorted(deployments, key=lambda each: each.name)
            for schedule in deployment.schedules
        ),
        "automations": tuple(sorted(automation.name for automation in automations)),
        "runs": tuple(
            RunStatus(
                name=run.name,
                state=run.state_name or "",
                started=_moment(run.start_time),
                duration_s=run.total_run_time.total_seconds(),
                tags=tuple(run.tags),
                against=against_of((run.state and run.state.message) or ""),
            )
            for run in runs
        ),
    }


def _in_words(status: WorkPoolStatus | None) -> str:
    return status.value.lower().replace("_", " ") if status else "unknown"


def when(schedule: Any) -> str:
    """A schedule in words: `cron 0 3 * * * (Europe/Berlin)`, `every 6:00:00`."""
    zone = f" ({schedule.timezone})" if schedule.timezone else ""
    if hasattr(schedule, "cron"):
        return f"cron {schedule.cron}{zone}"
    if hasattr(schedule, "interval"):
        return f"every {schedule.interval}"
    return f"{schedule.rrule}{zone}"


def _moment(time: datetime | None) -> str | None:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if time else None
