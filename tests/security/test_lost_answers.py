"""What a flow has answered is not lost with the server's word on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.settings import (
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_LOCAL_STORAGE_PATH,
    temporary_settings,
)
from prefect.states import Completed, Failed

from flows.average import average_checkpoints
from flows.merge import merge_pipeline
from flows.run_step import UNSTORED, call_flow, end_with
from flows.settings.averaging import Averaging
from flows.settings.pipeline import Pipeline
from flows.stack.prefect_session import PrefectSession
from merge_core.errors import MergeflowError, StepError
from merge_core.homes.home import Home

_SEND = httpx.Client.send
_END = re.compile(rb'"type": ?"(COMPLETED|FAILED)"')


@pytest.fixture(autouse=True)
def session(prefect: PrefectSession, home: Home) -> Iterator[PrefectSession]:
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: str(home.cache)}):
        yield prefect


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Ends of runs whose confirmation got lost: the server has them, the client waits in vain."""
    lost: list[bytes] = []
    real = httpx.Client.send

    def send(self: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        answer = real(self, request, **options)
        ends = request.url.path.endswith("/set_state") and _END.search(request.content)
        if ends and request.content not in lost:
            lost.append(request.content)
            raise httpx.ReadTimeout("timed out", request=request)
        return answer

    monkeypatch.setattr(httpx.Client, "send", send)
    return lost


@flow(**UNSTORED)
def answering() -> State[list[int]]:
    return end_with(Completed(name="Promoted", data=[1, 2]))


@flow(**UNSTORED)
def failing() -> State[None]:
    error = MergeflowError("no such model", where="there", mend="name another")
    return end_with(Failed(message=str(error), data=error))


@flow(**UNSTORED)
def answering_in_another_way() -> list[int]:
    return [1, 2]


def test_a_late_word_of_the_server_costs_no_answer(lost: list[bytes]) -> None:
    assert call_flow(answering) == [1, 2]
    assert len(lost) == 1
    with pytest.raises(MergeflowError, match="no such model"):
        call_flow(failing)
    assert len(lost) == 2


@pytest.mark.parametrize(
    "flow_and_arguments",
    [
        (
            merge_pipeline,
            lambda: Pipeline.model_validate(
                {
                    "name": "mine",
                    "recipe": {"merge_method": "linear", "models": [{"model": "/nowhere"}]},
                    "evaluate": {"suite": "starter"},
                }
            ),
        ),
        (
            average_checkpoints,
            lambda: Averaging.model_validate(
                {
                    "name": "mine",
                    "training": {"run": "/nowhere"},
                    "evaluate": {"suite": "starter"},
                    "register": {"model": "mine"},
                }
            ),
        ),
    ],
    ids=["merge", "average"],
)
def test_the_flows_say_what_is_wrong_when_the_servers_word_is_late(
    flow_and_arguments: tuple[Any, Callable[[], Any]], lost: list[bytes]
) -> None:
    called, arguments = flow_and_arguments
    with pytest.raises(MergeflowError) as refused:
        call_flow(called, arguments())
    assert "/nowhere" in str(refused.value)
    assert lost


def test_an_answer_that_is_lost_is_told_with_what_to_do(
    lost: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StepError, match="says that this run ended as Completed") as refused:
        call_flow(answering_in_another_way)
    assert "run the same command again" in str(refused.value)
    assert lost
    monkeypatch.setattr(httpx.Client, "send", _SEND)
    assert call_flow(answering_in_another_way) == [1, 2]


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """From the moment that a run ends, nobody answers."""
    gone: list[bytes] = []
    real = httpx.Client.send

    def send(self: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        ends = request.url.path.endswith("/set_state") and _END.search(request.content)
        if gone or ends:
            gone.append(request.content)
            raise httpx.ConnectError("refused", request=request)
        return real(self, request, **options)

    monkeypatch.setattr(httpx.Client, "send", send)
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        yield gone


def test_a_server_that_is_gone_at_the_end_costs_no_answer(
    gone: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    assert call_flow(answering) == [1, 2]
    assert gone
    assert "its page does not tell how this run ended" in caplog.text


def test_a_server_that_is_gone_before_is_told_with_what_to_do(
    gone: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StepError, match=r"does not answer \(ConnectError\)") as refused:
        call_flow(answering_in_another_way)
    assert "see that it runs and is not overloaded" in str(refused.value)
    assert gone
    monkeypatch.setattr(httpx.Client, "send", _SEND)
    assert call_flow(answering_in_another_way) == [1, 2]


def test_another_server_that_is_gone_is_not_taken_for_prefects() -> None:
    @flow(**UNSTORED)
    def asking() -> None:
        raise httpx.ConnectError("refused", request=httpx.Request("GET", "http://elsewhere/"))

    with pytest.raises(httpx.ConnectError):
        call_flow(asking)
