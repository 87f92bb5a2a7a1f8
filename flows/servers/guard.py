"""The guard before Prefect's and MLflow's server: it decides who may ask, and limits pages.

A request is looked at before the application sees any of it, http and websocket alike: its Host and
Origin (`flows.servers.request_origin`), then its login. Answers get headers that keep a page's
scripts and requests at home, and that let nothing but the application's own pages run in a browser.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from flows.servers import sign_in_page
from flows.servers.request_origin import AllowedHosts
from tasks.servers.login import Login

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_BODY_BYTES = 4096
_DATA_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"
"""Of whatever is no page of the application: a file that a model's maker wrote, opened by its
address, is shown without scripts and as of no origin."""
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
}
_MEND = {
    401: "send the login of this server: `mergeflow env` prints how, and `mergeflow up` and"
    " `mergeflow status` print a link for a browser",
    403: "use the address that `mergeflow status` prints; another name has to stand under"
    " `allowed_hosts` in stack.yaml",
}


@dataclass(frozen=True)
class Application:
    """The facts that the guard needs of the application behind it."""

    is_page: Callable[[str], bool]
    """Whether a path is one of the pages, or of the files that they are made of."""
    page_policy: str
    """Content-Security-Policy of those."""
    needs_login: Callable[[str, str], bool]
    """Whether a request, by method and path, is answered to nobody without the login."""
    sockets_need_login: bool
    """Whether a websocket has to show the login as it opens; else the application asks for it."""
    start: str = "/"
    """Where the page that signs in leads to."""
    remembers: Callable[[Login], dict[str, str]] = lambda _: {}
    """Values that the application's pages expect in the browser's local storage."""
    first_page: str | None = None
    """A path at which people see our first page, in place of the application's."""
    servers: Mapping[str, str] = field(default_factory=dict)
    """Addresses of both servers, by name, for that page."""


class ServerGuard:
    """An ASGI application around another one."""

    def __init__(
        self, app: App, application: Application, login: Login, hosts: AllowedHosts
    ) -> None:
        self._app = app
        self._application = application
        self._login = login
        self._hosts = hosts
        self._session = sign_in_page.Session(login)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(_Request(scope), receive, send)
        elif scope["type"] == "websocket":
            await self._open(_Request(scope), receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)

    async def _answer(self, request: _Request, receive: Receive, send: Send) -> None:
        own_page = (
            request.path == sign_in_page.PATH
            or request.path.startswith(f"{sign_in_page.PATH}/")
            or (request.path == self._application.first_page and request.is_navigation)
        )
        is_page = own_page or self._application.is_page(request.path)
        refusal = self._hosts.refusal(
            request.headers,
            scheme=request.scheme,
            navigates_to_page=is_page and request.method in ("GET", "HEAD"),
        )
        if refusal is not None:
            await _refuse(send, 403, refusal)
        elif own_page:
            await self._sign_in(request, receive, send)
        elif self._application.needs_login(request.method, request.path) and not self._knows(
            request
        ):
            await self._ask_for_login(request, send)
        else:
            policy = self._application.page_policy if is_page else _DATA_POLICY
            await self._app(request.scope, receive, _with_headers(send, policy))

    async def _open(self, request: _Request, receive: Receive, send: Send) -> None:
        refusal = self._hosts.refusal(
            request.headers, scheme=request.scheme, navigates_to_page=False
        )
        strange = self._application.sockets_need_login and not self._knows(request)
        if refusal is not None or strange:
            await receive()
            await send({"type": "websocket.close", "code": 1008})  # before accepting: answers 403
        else:
            await self._app(request.scope, receive, send)

    def _knows(self, request: _Request) -> bool:
        given = _basic(request.values(b"authorization"))
        if given is not None:
            return self._login.admits(given)
        return self._session.is_in(request.values(b"cookie"))

    async def _ask_for_login(self, request: _Request, send: Send) -> None:
        if request.is_navigation:
            page, kind = sign_in_page.page_file(sign_in_page.PATH) or (b"", b"")
            await _respond(send, 401, page, kind, sign_in_page.POLICY)
        else:
            # To a page's own script a challenge would put the browser's dialog in its way.
            from_page = bool(request.values(b"sec-fetch-mode"))
            await _refuse(send, 401, "this server answers to its user alone", not from_page)

    async def _sign_in(self, request: _Request, receive: Receive, send: Send) -> None:
        if request.path == sign_in_page.SERVERS and self._knows(request):
            servers = json.dumps(dict(self._application.servers)).encode()
            await _respond(send, 200, servers, b"application/json", _DATA_POLICY)
        elif request.path == sign_in_page.SERVERS:
            await _refuse(send, 401, "this server answers to its user alone")
        elif request.method in ("GET", "HEAD"):
            is_first = request.path == self._application.first_page
            found = sign_in_page.page_file(sign_in_page.START if is_first else request.path)
            if found is None:
                await _refuse(send, 404, "there is no such page")
            else:
                body, kind = found
                await _respond(send, 200, body, kind, sign_in_page.POLICY)
        elif request.method != "POST" or request.path != sign_in_page.PATH:
            await _refuse(send, 405, "this page takes a password by POST")
        else:
            await self._take_password(request, receive, send)

    async def _take_password(self, request: _Request, receive: Receive, send: Send) -> None:
        given = sign_in_page.password_in(await _body(receive))
        if not (self._knows(request) if given is None else self._login.admits(given)):
            await _refuse(send, 401, "this is not the password")
            return
        # The browser sends its cookie to whatever listens at this host, on any port. So it buys
        # neither the password nor a cookie that lasts longer.
        remembered = {} if given is None else self._application.remembers(self._login)
        answer = {"go": self._application.start, "remember": remembered}
        cookie = self._session.cookie(secure=request.scheme == "https")
        headers = [] if given is None else [(b"set-cookie", cookie)]
        body = json.dumps(answer).encode()
        await _respond(send, 200, body, b"application/json", _DATA_POLICY, *headers)


class _Request:
    """The parts of a request that the guard looks at."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.headers: list[tuple[bytes, bytes]] = [
            (bytes(name).lower(), bytes(value)) for name, value in scope["headers"]
        ]
        self.path: str = scope["path"]
        self.method: str = scope.get("method", "GET")
        scheme: str = scope["scheme"]
        self.scheme = {"ws": "http", "wss": "https"}.get(scheme, scheme)

    def values(self, name: bytes) -> list[str]:
        """Every header of a name."""
        return [value.decode("latin-1") for key, value in self.headers if key == name]

    @property
    def is_navigation(self) -> bool:
        """Whether a browser wants to show the answer to a person."""
        accepts = ",".join(self.values(b"accept"))
        return self.method == "GET" and "text/html" in accepts


def _basic(headers: list[str]) -> str | None:
    """The login of a header `Authorization`: None without such a header, and empty, which is never
    a login, for one of another kind."""
    if not headers:
        return None
    kind, _, token = headers[0].partition(" ")
    if len(headers) > 1 or kind.lower() != "basic":
        return ""
    try:
        return base64.b64decode(token.strip(), validate=True).decode()
    except ValueError:  # no base64, no ASCII, or no UTF-8
        return ""


async def _body(receive: Receive) -> bytes:
    """The body of a request; empty when it is longer than a password can be."""
    body = b""
    more = True
    while more and len(body) <= _BODY_BYTES:
        message = await receive()
        body += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    return body if len(body) <= _BODY_BYTES else b""


async def _refuse(send: Send, status: int, why: str, challenge: bool = False) -> None:
    """An answer that Prefect's and MLflow's clients, and people, can read."""
    message = f"{why}; {_MEND[status]}" if status in _MEND else why
    codes = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}
    body = {
        "error_code": codes.get(status, "BAD_REQUEST"),
        "message": message,
        "detail": message,
    }
    more = [(b"www-authenticate", b'Basic realm="mergeflow"')] if challenge else []
    await _respond(
        send, status, json.dumps(body).encode(), b"application/json", _DATA_POLICY, *more
    )


async def _respond(
    send: Send,
    status: int,
    body: bytes,
    kind: bytes,
    policy: str,
    *more: tuple[bytes, bytes],
) -> None:
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *more,
    ]
    start = {"type": "http.response.start", "status": status, "headers": headers}
    await _with_headers(send, policy)(start)
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send, policy: str) -> Send:
    """Send an answer with our headers in the place of the application's own of these names."""
    framed = b"SAMEORIGIN" if "frame-ancestors 'self'" in policy else b"DENY"
    ours = {
        **_HEADERS,
        b"content-security-policy": policy.encode(),
        b"x-frame-options": framed,
    }

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [
                (name, value)
                for name, value in message.get("headers", [])
                if bytes(name).lower() not in ours
            ]
            message = {**message, "headers": [*kept, *ours.items()]}
        await send(message)

    return sending
