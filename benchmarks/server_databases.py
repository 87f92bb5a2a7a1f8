"""How many writes a second Prefect's server takes, on SQLite and on PostgreSQL with Redis.

    python -m benchmarks.server_databases

Needs the extra `scale-out`, and the packages of PostgreSQL and Redis (`make stack-test` installs
them); starts private ones.
Each writer does what a run does to the server: creates a flow run, sets its state to Running, sends
log lines, sets it to Completed; then the next one. Writers are connections of one client, which
takes its share of the same processors. Prints one row for each set-up and number of writers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import httpx

from flows.stack.config import StackConfig
from flows.stack.health import answers
from flows.stack.prefect_session import server_environment
from merge_core.homes.home import Home
from tests.support.database_servers import Servers, database_servers, missing_programs
from tests.support.stack import free_port

WRITERS = (1, 8, 32, 128)
LOG_LINES = 10
RETRY = 1.0
"""Seconds after which a writer that was refused tries again; Prefect's client waits 2 and more."""
TIMEOUT = 120.0


@dataclass(frozen=True)
class SetUp:
    """How the server is run."""

    title: str
    postgresql: bool
    apis: int
    """Processes that answer requests."""
    services_apart: bool


SET_UPS = (
    SetUp("SQLite, one process (`mergeflow up`)", False, 1, False),
    SetUp("SQLite, services apart", False, 1, True),
    SetUp("PostgreSQL and Redis, services apart (`stack.yaml`)", True, 1, True),
    SetUp("PostgreSQL and Redis, two API processes", True, 2, True),
)


@dataclass
class Load:
    """What the writers saw."""

    accepted: int = 0
    """Writes, before the time was over."""
    seconds: list[float] = field(default_factory=list)
    """From the first try of a write to its being accepted."""
    refused: int = 0
    """Tries that were answered with 503, as a locked database is, or not at all."""


def main() -> None:
    """Measure every set-up and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row")
    options = parser.parse_args()
    missing = missing_programs()
    if missing:
        sys.exit(missing)
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, {options.seconds:.0f} s for each row"
    )
    print("| set-up | writers | writes/s | median ms | slowest ms | refused |")
    print("|---|---|---|---|---|---|")
    with database_servers(free_port(), free_port()) as servers:
        for number, set_up in enumerate(SET_UPS):
            with _running(set_up, servers, number) as addresses:
                for writers in WRITERS:
                    load = asyncio.run(_write(addresses, writers, options.seconds))
                    rate = load.accepted / options.seconds
                    middle, slowest = statistics.median(load.seconds), max(load.seconds)
                    cells = f"{rate:.0f} | {middle * 1e3:.0f} | {slowest * 1e3:.0f}"
                    print(
                        f"| {set_up.title} | {writers} | {cells} | {load.refused} |",
                        flush=True,
                    )


@contextmanager
def _running(set_up: SetUp, servers: Servers, number: int) -> Iterator[list[str]]:
    """The processes of a set-up; addresses of its APIs."""
    config = StackConfig()
    if set_up.postgresql:
        config = StackConfig(
            prefect_database=servers.create_database(f"prefect{number}"),
            mlflow_database=servers.database("unused"),
            redis=servers.redis(number),
        )
    ports = [free_port() for _ in range(set_up.apis)]
    addresses = [f"http://127.0.0.1:{port}/api" for port in ports]
    with ExitStack() as running:
        place = Path(running.enter_context(tempfile.TemporaryDirectory()))
        home = Home(place)
        home.prefect.mkdir()
        environment = server_environment(home, addresses[0]) | config.prefect
        apart = ["--no-services"] if set_up.services_apart else []
        commands = [["server", "start", "--port", str(port), *apart] for port in ports]
        for address, command in zip(addresses, commands, strict=True):
            running.enter_context(_process(command, environment, place))
            while not answers(f"{address}/health"):
                time.sleep(0.2)
        if set_up.services_apart:
            services = ["server", "services", "start"]
            running.enter_context(_process(services, environment, place))
            time.sleep(5)
        yield addresses


@contextmanager
def _process(command: list[str], environment: dict[str, str], place: Path) -> Iterator[None]:
    with (place / f"{'-'.join(command)}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *command], env=environment, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


async def _write(addresses: list[str], writers: int, seconds: float) -> Load:
    load = Load()
    limits = httpx.Limits(max_connections=writers)
    async with httpx.AsyncClient(timeout=TIMEOUT, limits=limits) as client:
        made = await client.post(f"{addresses[0]}/flows/", json={"name": "load"})
        flow = made.raise_for_status().json()["id"]
        end = time.monotonic() + seconds
        chosen = cycle(addresses)
        tasks = [_runs(client, next(chosen), flow, end, load) for _ in range(writers)]
        await asyncio.gather(*tasks)
    return load


async def _runs(client: httpx.AsyncClient, api: str, flow: str, end: float, load: Load) -> None:
    """Run after run until the end."""

    async def post(path: str, body: object) -> str | None:
        began = time.monotonic()
        while time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                answer = await client.post(f"{api}{path}", json=body)
                if answer.status_code < 500:
                    answer.raise_for_status()
                    now = time.monotonic()
                    load.seconds.append(now - began)
                    load.accepted += now < end
                    return str(answer.json()["id"]) if path == "/flow_runs/" else ""
            load.refused += 1
            await asyncio.sleep(RETRY)
        return None

    while time.monotonic() < end:
        run = await post("/flow_runs/", {"flow_id": flow, "state": {"type": "PENDING"}})
        if run is None:
            return
        line = {"name": "load", "level": 20, "message": "x" * 80, "flow_run_id": run}
        line["timestamp"] = "2026-01-01T00:00:00Z"
        await post(f"/flow_runs/{run}/set_state", {"state": {"type": "RUNNING"}})
        await post("/logs/", [line] * LOG_LINES)
        await post(f"/flow_runs/{run}/set_state", {"state": {"type": "COMPLETED"}})


if __name__ == "__main__":
    main()
