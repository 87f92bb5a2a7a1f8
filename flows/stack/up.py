"""`mergeflow up` for a person: the started processes, their addresses, faults, and the end."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from flows.stack.config import read_stack_config
from flows.stack.databases import only_one_on
from flows.stack.links import show_links
from flows.stack.ports import MLFLOW_PORT, PREFECT_PORT, listen
from flows.stack.prefect_session import prefect_session
from flows.stack.stack import Signals, Stack, end_leftovers, only_one, worker_names
from flows.terminal.console import Terminal, seconds, shown_path
from merge_core.homes.home import Home
from tasks.registry.memory import embedded_database
from tasks.registry.places import follow_home
from tasks.servers.stack_record import StackRecord

_LOOK_EVERY = 1.0
_LOOK_FOR_RUNS_EVERY, _LOOK_FOR_RUNS = 5.0, 180.0
"""Seconds: how often, and how long after a restart, runs that died with a worker are looked for."""


def bring_up(terminal: Terminal, home: Home, prefect: int | None, mlflow: int | None) -> None:
    """Run the stack until a signal comes; everything of it has ended when this returns.

    Raises:
        MergeflowError: it cannot be started here.
        StepError: a process of it ended again and again, or a database does not answer.
    """
    config = read_stack_config(home)
    with only_one(home), only_one_on(config), Signals() as signals:
        left = end_leftovers(home)
        if left:
            terminal.say(f"ended {left} processes that a killed `mergeflow up` left behind")
        if not config.mlflow_database:
            follow_home(embedded_database(home))
        listener, prefect_taken = listen(prefect, PREFECT_PORT, "--prefect-port")
        with listener:
            mlflow_listener, mlflow_taken = listen(mlflow, MLFLOW_PORT, "--mlflow-port")
            with mlflow_listener:
                for taken in filter(None, (prefect_taken, mlflow_taken)):
                    terminal.warn(f"{taken}; the next free one is used")
                _run(terminal, Stack(home, listener, mlflow_listener, config), signals)


def _run(terminal: Terminal, stack: Stack, signals: Signals) -> None:
    started = time.monotonic()
    try:
        stack.start_servers()
        terminal.say("starting Prefect and MLflow ...", style="dim")
        names, forms = _set_up(terminal, stack)
        _announce(terminal, stack, names, forms, time.monotonic() - started)
        _keep_up(terminal, stack)
    except KeyboardInterrupt:
        terminal.say("stopping ... (once more to stop at once)", style="dim")
    finally:
        signals.stopping()
        stack.stop(signals)
    elsewhere = f" and {stack.record.records}" if stack.home.names_databases else ""
    terminal.say(f"stopped; everything is kept in {shown_path(stack.home.path)}{elsewhere}")


def _keep_up(terminal: Terminal, stack: Stack) -> NoReturn:
    """Start again what ends by itself, and end the runs that went with it, for ever."""
    look_until, look_next = 0.0, 0.0
    while True:
        time.sleep(_LOOK_EVERY)
        for service in stack.revive():
            terminal.warn(f"{service.title} had ended and is started again; see {service.log}")
            look_until = time.monotonic() + _LOOK_FOR_RUNS
        if look_next < time.monotonic() < look_until:
            for name in _end_abandoned(stack):
                terminal.warn(f"the run {name} ended with its worker; start it again in Prefect")
            look_next = time.monotonic() + _LOOK_FOR_RUNS_EVERY


def _end_abandoned(stack: Stack) -> list[str]:
    """Names of the runs whose processes are gone; none while the server does not answer."""
    import httpx
    from prefect import get_client
    from prefect.exceptions import PrefectException

    from flows.stack.interrupted_runs import end_abandoned_runs

    expected = worker_names(stack.config.workers)
    try:
        with prefect_session(stack.home), get_client(sync_client=True) as client:
            return [r.name for r in end_abandoned_runs(client, stack.record.instance, expected)]
    except (httpx.HTTPError, PrefectException):
        return []


def _set_up(terminal: Terminal, stack: Stack) -> tuple[list[str], dict[str, str]]:
    """Prepare the server, then let the worker begin: the deployments' names, and where the forms
    are. Prefect is imported while it starts."""
    settings = stack.record.environment(stack.home)
    os.environ.update(settings | {"MLFLOW_TRACKING_URI": stack.record.mlflow})
    os.environ["PREFECT_HOME"] = str(stack.home.prefect)
    from prefect import get_client

    from flows.stack.form_links import form_addresses
    from flows.stack.interrupted_runs import drop_missed_runs, end_dead_runs
    from flows.stack.setup import create_work_pool, set_up, workers_online

    began = datetime.now(UTC)
    stack.wait(stack.prefect)
    with prefect_session(stack.home), get_client(sync_client=True) as client:
        create_work_pool(client)
        for run in end_dead_runs(client):
            terminal.warn(f"the run {run.name} was interrupted; start it again in Prefect")
        missed = drop_missed_runs(client)
        if missed:
            terminal.say(f"{missed} scheduled runs were missed and are left out")
        stack.start_workers()
        expected = set(worker_names(stack.config.workers))
        prepared = set_up(client, Path(stack.record.directory), stack.home)
        stack.wait()
        while not expected <= workers_online(client, since=began):
            stack.wait()
            time.sleep(0.2)
        forms = form_addresses(client.read_deployments(), stack.record.prefect)
    for sentence in prepared.said:
        terminal.warn(sentence)
    return prepared.deployments, forms


def _announce(
    terminal: Terminal, stack: Stack, names: list[str], forms: dict[str, str], duration: float
) -> None:
    from flows.stack.form_links import show_forms

    record: StackRecord = stack.record
    terminal.say()
    terminal.say(f"Prefect   {record.prefect}   runs, forms, schedules", style="bold")
    terminal.say(f"MLflow    {record.mlflow}   models, scores, versions", style="bold")
    show_links(terminal, stack.home, record)
    show_forms(terminal, forms)
    terminal.say(f"ready in {seconds(duration)}; deployments: {', '.join(names)}")
    terminal.say(f"data in {shown_path(stack.home.path)}, logs in {shown_path(stack.home.logs)}")
    if stack.home.names_databases:
        terminal.say(f"runs and models in {record.records}; workers: {len(stack.workers)}")
    terminal.say(f"paths in forms start at {record.directory}")
    terminal.say("`mergeflow status` shows the health; Ctrl-C stops everything")
