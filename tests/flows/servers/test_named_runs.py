"""The name that is typed into a form is the run's name when it is made."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from flows.servers.guard import Message, Receive, Scope, Send
from flows.servers.named_runs import NamedRuns, with_typed_name
from flows.settings.method_forms import FORMS
from tests.flows.settings.test_method_forms import FILLED

ORDER = "/api/deployments/6abf9a49-1d97-4f8a-ae80-c3f3b1494124/create_flow_run"


def seen(body: bytes, path: str = ORDER, chunk: int = 10**9, **scope: Any) -> tuple[bytes, int]:
    """The body that the application behind gets, and the length that its headers state."""
    parts = [body[at : at + chunk] for at in range(0, len(body), chunk)] or [b""]
    waiting: list[Message] = [
        {"type": "http.request", "body": part, "more_body": number < len(parts) - 1}
        for number, part in enumerate(parts)
    ]
    got: dict[str, Any] = {"body": b""}

    async def receive() -> Message:
        return waiting.pop(0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        got["length"] = int(dict(scope["headers"])[b"content-length"])
        more = True
        while more:
            message = await receive()
            got["body"] += message["body"]
            more = message["more_body"]

    async def send(_: Message) -> None:
        """Nothing is answered."""

    length = [(b"content-length", str(len(body)).encode())]
    whole = {"type": "http", "method": "POST", "path": path, "headers": length, **scope}
    asyncio.run(NamedRuns(app)(whole, receive, send))
    return got["body"], got["length"]


def order(parameters: Any) -> bytes:
    return json.dumps({"name": "Ergonomic-Numbat", "parameters": parameters}).encode()


@pytest.mark.parametrize("form", FORMS)
def test_a_run_has_the_name_that_was_typed_into_any_form(form: str) -> None:
    body, length = seen(order({**FILLED[form], "name": "code-and-prose"}), chunk=50)
    assert json.loads(body)["name"] == "code-and-prose"
    assert length == len(body)


def test_so_have_runs_of_any_method_and_of_averages() -> None:
    for parameters in ({"name": "mine", "merge": {}}, {"averaging": {"name": "mine"}}):
        assert json.loads(with_typed_name(order(parameters)))["name"] == "mine"


@pytest.mark.parametrize(
    "body",
    [
        order({"name": "Marvin"}),
        order({"name": "two words", "merge": {}}),
        order({"name": ["x"], "merge": {}}),
        order({"merge": {}}),
        order({"averaging": None}),
        order([]),
        order(None),
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_any_other_order_reaches_the_server_as_it_is(body: bytes) -> None:
    assert seen(body, chunk=7) == (body, len(body))


def test_nothing_else_is_read() -> None:
    body = order({"name": "mine", "merge": {}})
    assert seen(body, path="/api/deployments/filter") == (body, len(body))
    assert seen(body, method="PUT") == (body, len(body))


def test_what_is_larger_than_any_form_passes_unread() -> None:
    body = order({"name": "mine", "merge": {"recipe": "x" * 5_000_000}})
    assert seen(body, chunk=1_000_000) == (body, len(body))
