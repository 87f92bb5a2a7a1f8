"""Keeps half characters from Prefect, which stores them and cannot send them.

In JSON `"\\ud800"` is half of a character. Python makes one of a byte in a file's name that is no
UTF-8. Prefect's server takes it as a parameter; from then on each answer with that run in it is an
error, and so is each list of runs for the worker, which carries out none any more.
"""

from __future__ import annotations

import json

from flows.servers.guard import App, Receive, Scope, Send
from flows.servers.request_body import take_body

_SAID = (
    "a text in this request holds half a character (JSON: a lone \\ud800 to \\udfff), as Python"
    " reads from a file name that is not UTF-8; rename the file"
)


class WholeCharacters:
    """An ASGI application around Prefect's."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in ("POST", "PUT", "PATCH"):
            body = await take_body(receive)
            if body.is_whole and holds_half_a_character(body.content):
                await _refuse(send)
                return
            receive = body.again()
        await self._app(scope, receive, send)


def holds_half_a_character(body: bytes) -> bool:
    """Whether a JSON text means a text that no encoding can carry."""
    if b"\\ud" not in body.lower():
        return False
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False  # no JSON: the server says so
    return False


async def _refuse(send: Send) -> None:
    body = json.dumps({"detail": _SAID, "exception_message": _SAID}).encode()
    length = str(len(body)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 422, "headers": headers})
    await send({"type": "http.response.body", "body": body})
