"""What mergeflow says of a run is in its log in Prefect, from INFO on, without passwords."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from uuid import UUID

import pytest
from prefect import flow, get_client, task
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.logging.handlers import APILogHandler

from flows.run_log import log_to_prefect
from flows.run_step import UNSTORED
from flows.stack.prefect_session import PrefectSession
from tests.support.processes import wait_until


@pytest.fixture
def as_in_a_worker(prefect: PrefectSession) -> Iterator[logging.Logger]:
    """mergeflow's logger as Prefect leaves it in a run's process, set up by no command."""
    logger = logging.getLogger("mergeflow")
    level, handlers = logger.level, logger.handlers[:]
    logger.setLevel(logging.NOTSET)
    logger.handlers[:] = []
    yield logger
    logger.setLevel(level)
    logger.handlers[:] = handlers


@task(name="step", persist_result=False)
def step() -> None:
    logging.getLogger("mergeflow.steps").info("evaluate merged: 3.2 s")


@flow(name="says", **UNSTORED)
def says() -> None:
    log_to_prefect()
    log_to_prefect()  # as a form's flow does, which goes on as a merge's
    logger = logging.getLogger("mergeflow")
    logger.info("registered at %s", "postgresql://ada:hunter2@db/mlflow")
    logger.debug("nothing for people")
    step()


def lines_of(run: UUID) -> list[str]:
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]))
    with get_client(sync_client=True) as client:
        found = client.read_logs(log_filter=wanted)
    return [line.message for line in found if line.name.startswith("mergeflow")]


def test_info_of_flow_and_steps_reaches_the_runs_log_once_and_no_password(
    as_in_a_worker: logging.Logger,
) -> None:
    assert not as_in_a_worker.isEnabledFor(logging.INFO)
    run = says(return_state=True).state_details.flow_run_id
    assert run is not None
    assert wait_until(lambda: len(lines_of(run)) >= 2, 20)
    assert sorted(lines_of(run)) == [
        "evaluate merged: 3.2 s",
        "registered at postgresql://***@db/mlflow",
    ]


def test_what_is_said_outside_of_a_run_bothers_nobody(
    as_in_a_worker: logging.Logger, recwarn: pytest.WarningsRecorder
) -> None:
    log_to_prefect()
    as_in_a_worker.info("between two runs")
    assert [each for each in recwarn if "logger" in str(each.message).lower()] == []
    (handler,) = as_in_a_worker.handlers
    assert isinstance(handler, APILogHandler)
