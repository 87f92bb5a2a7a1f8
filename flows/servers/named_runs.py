"""Gives a run the name that was typed into its form, as it is made.

Prefect makes a run under a name of its own, and the flow can change that only once it has started:
until then nobody finds it in the list. So the order to make a run is read before the server has it.
"""

from __future__ import annotations

import json
import re
from typing import Any

from flows.servers.guard import App, Receive, Scope, Send
from flows.servers.request_body import take_body
from flows.settings.pipeline import NAME

_ORDER = re.compile(r"/api/deployments/[0-9a-fA-F-]{36}/create_flow_run/?")
_LENGTH = b"content-length"
_OF_FORMS = {"merge", "models", "base", "runs", "recipe"}
"""Every form of a merge has one of these fields, and hardly any foreign deployment has."""


class NamedRuns:
    """An ASGI application around Prefect's."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_order = scope["type"] == "http" and scope["method"] == "POST"
        if is_order and _ORDER.fullmatch(scope["path"]):
            scope, receive = await _named(scope, receive)
        await self._app(scope, receive, send)


def with_typed_name(order: bytes) -> bytes:
    """An order to make a run, with the name that its form says; as it is where it says none."""
    try:
        values = json.loads(order)
        parameters = values["parameters"]
        name = _typed_name(parameters)
    except (ValueError, KeyError, TypeError, RecursionError):
        return order
    return order if name is None else json.dumps({**values, "name": name}).encode()


def _typed_name(parameters: dict[str, Any]) -> str | None:
    if "averaging" in parameters:
        name = parameters["averaging"]["name"]
    elif _OF_FORMS & set(parameters):
        name = parameters["name"]
    else:
        return None
    return name if isinstance(name, str) and re.fullmatch(NAME, name) else None


async def _named(scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
    """The request with another name in its body, and the length that goes with it."""
    body = await take_body(receive)
    sent = with_typed_name(body.content) if body.is_whole else body.content
    if sent == body.content:
        return scope, body.again()
    kept = [(name, value) for name, value in scope["headers"] if name.lower() != _LENGTH]
    return {**scope, "headers": [*kept, (_LENGTH, str(len(sent)).encode())]}, body.again(sent)
