"""The guard before the servers, as an ASGI application: who passes, and what answers carry."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from flows.servers.guard import Application, Message, Receive, Scope, Send, ServerGuard
from flows.servers.request_origin import AllowedHosts, read_authority
from tasks.servers.login import Login

LOGIN = Login("mergeflow:a-password")
BASIC = "Basic " + base64.b64encode(LOGIN.text.encode()).decode()
HOST = ("Host", "127.0.0.1:4200")
PAGES = Application(
    is_page=lambda path: not path.startswith("/api/"),
    page_policy="default-src 'self'; frame-ancestors 'self'",
    needs_login=lambda method, path: path != "/api/health",
    sockets_need_login=True,
    start="/start",
    remembers=lambda login: {"key": login.password},
)


@dataclass
class Answer:
    """What a client got."""

    reached: bool
    """Whether the application saw the request."""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def ask(
    *headers: tuple[str, str],
    path: str = "/api/data",
    method: str = "GET",
    body: bytes = b"",
    listed: Iterable[str] = (),
    scheme: str = "http",
    application: Application = PAGES,
) -> Answer:
    """Send one request through the guard."""
    answer = Answer(reached=False)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        answer.reached = True
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        own = [(b"content-type", b"text/html"), (b"X-Frame-Options", b"ALLOWALL")]
        await send({"type": "http.response.start", "status": 200, "headers": own})
        await send({"type": "http.response.body", "body": b"data"})

    async def receive() -> Message:
        if scope["type"] == "websocket":
            return {"type": "websocket.connect"}
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            found = [(name.decode().lower(), value.decode()) for name, value in message["headers"]]
            answer.headers = dict(found)
            assert len(found) == len(answer.headers), "no header twice"
        elif message["type"] == "http.response.body":
            answer.body += message["body"]
        else:
            answer.headers["socket"] = message["type"]

    scope: dict[str, Any] = {
        "type": "websocket" if scheme.startswith("ws") else "http",
        "scheme": scheme,
        "method": method,
        "path": path,
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
    }
    guard = ServerGuard(app, application, LOGIN, AllowedHosts(list(listed)))
    asyncio.run(guard(scope, receive, send))
    return answer


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:4200", "127.0.0.1", "127.0.0.1:1", "[::1]:4200", "[0:0::1]", "[::1]"],
)
def test_every_name_of_the_loopback_interface_is_answered_on_any_port(host: str) -> None:
    assert ask(("Host", host), ("Authorization", BASIC)).reached


STRANGE_HOSTS = [
    *("evil.test", "evil.test:4200", "localhost.evil.test", "127.0.0.1.evil.test", "localhost."),
    *("user@localhost", "localhost@evil.test", "localhost:80@evil.test", "127.0.0.1:", ":4200"),
    *("", "*", "localhost, evil.test", "localhost evil.test", "localhost/", "http://localhost"),
    *("localhost:99999", "localhost:0", "localhost:80:80", "localhost:+80", "127.0.0.1#"),
    *("[::1", "::1", "[::ffff:127.0.0.1]", "[::1%25lo]", "2130706433", "0x7f.1", "127.1"),
    *(
        "0.0.0.0",
        "0",
        "127.0.0.2",
        "192.168.0.1",
        "localhost\\evil",
        "\xabocalhost",
        "local\xadhost",
    ),
]


@pytest.mark.parametrize("host", STRANGE_HOSTS)
@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_name_that_somebody_else_chose_is_refused_with_the_password_too(
    host: str, scheme: str
) -> None:
    assert not ask(("Host", host), ("Authorization", BASIC), scheme=scheme).reached


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [HOST, HOST],
        [HOST, ("Host", "evil.test")],
        [("Host", "evil.test"), ("X-Forwarded-Host", "localhost")],
        [("Host", "evil.test"), ("Forwarded", "host=localhost")],
    ],
    ids=["none", "twice", "two", "forwarded", "forwarded as by the standard"],
)
def test_one_host_is_needed_and_no_other_header_replaces_it(
    headers: list[tuple[str, str]],
) -> None:
    answer = ask(*headers, ("Authorization", BASIC))
    assert (answer.status, answer.reached) == (403, False)


def test_a_listed_name_is_answered_and_one_with_a_port_on_that_port_alone() -> None:
    def reached(host: str, *listed: str) -> bool:
        return ask(("Host", host), ("Authorization", BASIC), listed=listed).reached

    assert reached("merge.example.org:4200", "merge.example.org")
    assert reached("MERGE.example.org", "Merge.Example.Org")
    assert reached("merge.example.org:4200", "merge.example.org:4200")
    assert not reached("merge.example.org:4201", "merge.example.org:4200")
    assert not reached("sub.merge.example.org", "merge.example.org")
    assert not reached("merge.example.org.evil.test", "merge.example.org")


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:4200", "http://127.0.0.1:4200"),
        ("localhost:4200", "http://LOCALHOST:4200"),
        ("localhost", "http://localhost"),
        ("localhost:80", "http://localhost"),
        ("[::1]:4200", "http://[::1]:4200"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_page_of_the_servers_own_origin_is_answered(host: str, origin: str, scheme: str) -> None:
    headers = [("Host", host), ("Origin", origin), ("Authorization", BASIC)]
    assert ask(*headers, method="POST", scheme=scheme).reached


@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.test", "https://evil.test", "null", "", "file://", "about:blank"),
        *(
            "http://127.0.0.1",
            "http://127.0.0.1:4201",
            "http://localhost:4200",
            "http://[::1]:4200",
        ),
        *("https://127.0.0.1:4200", "ws://127.0.0.1:4200", "ftp://127.0.0.1:4200"),
        *("http://127.0.0.1:4200/", "http://127.0.0.1:4200@evil.test", "http://x@127.0.0.1:4200"),
        *("127.0.0.1:4200", "http://127.0.0.1:4200.evil.test", "http://127.0.0.1:4200, http://a"),
        *("chrome-extension://abcdef", "moz-extension://127.0.0.1:4200", "http://[::1", "http://"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_page_of_any_other_origin_is_refused_with_the_password_too(
    origin: str, scheme: str, method: str
) -> None:
    headers = [HOST, ("Origin", origin), ("Authorization", BASIC)]
    answer = ask(*headers, method=method, scheme=scheme)
    assert not answer.reached
    assert "access-control-allow-origin" not in answer.headers


def test_two_origins_are_refused() -> None:
    own = ("Origin", "http://127.0.0.1:4200")
    assert not ask(HOST, own, own, ("Authorization", BASIC)).reached


@pytest.mark.parametrize(
    ("host", "origin", "reached"),
    [
        ("merge.example.org", "https://merge.example.org", True),  # TLS ends at a proxy
        ("127.0.0.1:4200", "https://merge.example.org", True),  # which has changed the Host
        ("127.0.0.1:4200", "https://merge.example.org:8443", False),
        ("merge.example.org", "https://merge.example.org:8443", False),
        ("127.0.0.1:4200", "https://other.example.org", False),
    ],
)
def test_a_page_behind_a_proxy_is_answered_when_its_name_is_listed(
    host: str, origin: str, reached: bool
) -> None:
    headers = [("Host", host), ("Origin", origin), ("Authorization", BASIC)]
    assert ask(*headers, method="POST", listed=["merge.example.org"]).reached is reached


@pytest.mark.parametrize("site", ["cross-site", "same-site", "x", ""])
@pytest.mark.parametrize(
    ("mode", "destination"),
    [("no-cors", "image"), ("no-cors", "script"), ("navigate", "iframe"), ("navigate", "object")],
)
def test_what_another_page_embeds_is_refused_though_it_names_no_origin(
    site: str, mode: str, destination: str
) -> None:
    said = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": destination}
    for path in ("/", "/api/data"):
        assert not ask(HOST, *said.items(), ("Authorization", BASIC), path=path).reached


def test_a_link_on_another_page_leads_to_pages_and_to_nothing_else() -> None:
    link = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")]
    follow = [HOST, *link, ("Sec-Fetch-Dest", "document"), ("Authorization", BASIC)]
    assert ask(*follow, path="/runs").reached
    assert not ask(*follow, path="/api/data").reached
    assert not ask(*follow, path="/runs", method="POST").reached


@pytest.mark.parametrize("given", [LOGIN.text, LOGIN.password])
def test_the_login_is_taken_with_its_name_and_without(given: str) -> None:
    token = base64.b64encode(given.encode()).decode()
    assert ask(HOST, ("Authorization", f"basic {token}")).reached


@pytest.mark.parametrize(
    "authorization",
    [
        *("", "Basic", "Basic ", "Basic !!!", "Basic \xe9", "Bearer a-password"),
        *(BASIC[:-1], f"{BASIC} x"),
        *(
            f"Basic {base64.b64encode(text).decode()}"
            for text in (b"", b":", b"mergeflow:", b"\xff")
        ),
        f"Basic {base64.b64encode(b'admin:a-password').decode()}",
        f"Basic {base64.b64encode(b'mergeflow:a-Password').decode()}",
    ],
)
def test_any_other_login_is_refused(authorization: str) -> None:
    for scheme in ("http", "ws"):
        answer = ask(HOST, ("Authorization", authorization), scheme=scheme)
        assert not answer.reached
    assert ask(HOST, ("Authorization", authorization)).status == 401
    assert not ask(HOST, ("Authorization", BASIC), ("Authorization", authorization)).reached


def test_without_a_login_programs_are_told_so_and_pages_get_no_dialog_of_the_browser() -> None:
    program, page = ask(HOST), ask(HOST, ("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Site", "none"))
    assert program.status == page.status == 401
    assert program.headers["www-authenticate"].startswith("Basic ")
    assert "www-authenticate" not in page.headers
    said = json.loads(program.body)
    assert said["error_code"] == "UNAUTHENTICATED"
    assert "mergeflow env" in said["message"]
    assert said["detail"] == said["message"]


def test_a_person_without_a_login_sees_the_page_that_signs_in() -> None:
    answer = ask(HOST, ("Accept", "text/html,*/*"), path="/runs")
    assert (answer.status, answer.reached) == (401, False)
    assert b'type="password"' in answer.body
    assert ask(HOST, path="/sign-in/page.js").headers["content-type"] == "text/javascript"


@pytest.mark.parametrize(
    "path",
    [
        "/sign-in/",
        "/sign-in/../page.py",
        "/sign-in/page.html",
        "/sign-in//etc/passwd",
        "/sign-in/x",
    ],
)
def test_the_page_that_signs_in_has_three_files_and_no_other(path: str) -> None:
    assert ask(HOST, path=path).status == 404


def sign_in(password: Any, *headers: tuple[str, str], scheme: str = "http") -> Answer:
    body = json.dumps({"password": password}).encode()
    return ask(HOST, *headers, path="/sign-in", method="POST", body=body, scheme=scheme)


def test_a_browser_that_signed_in_is_known_by_a_cookie_that_is_not_the_password() -> None:
    answer = sign_in(LOGIN.text)
    assert json.loads(answer.body) == {"go": "/start", "remember": {"key": "a-password"}}
    cookie, *attributes = answer.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    assert LOGIN.password not in answer.headers["set-cookie"]
    assert ask(HOST, ("Cookie", f'other={{"a":1}}; x; {cookie}')).reached
    assert ask(HOST, ("Cookie", cookie), scheme="ws").reached
    assert not ask(HOST, ("Cookie", cookie), ("Origin", "http://127.0.0.1:9")).reached
    known = sign_in(None, ("Cookie", cookie))
    assert json.loads(known.body) == {"go": "/start", "remember": {}}, "not the password"
    assert "set-cookie" not in known.headers
    assert "Secure" in sign_in(LOGIN.text, scheme="https").headers["set-cookie"]


def test_a_cookie_that_was_changed_or_is_too_old_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cookie = sign_in(LOGIN.text).headers["set-cookie"].split("; ")[0]
    name, until, proof = cookie.replace("=", ".", 1).split(".")
    for changed in (f"{int(until) + 1}.{proof}", f"{until}.{proof[::-1]}", until, f".{proof}", ""):
        assert not ask(HOST, ("Cookie", f"{name}={changed}")).reached
    later = time.time() + 40 * 24 * 3600
    monkeypatch.setattr(time, "time", lambda: later)
    assert not ask(HOST, ("Cookie", cookie)).reached


@pytest.mark.parametrize("password", ["", "mergeflow", "mergeflow:", "a-passwor", None, 1, ["x"]])
def test_another_password_signs_nobody_in(password: Any) -> None:
    answer = sign_in(password)
    assert answer.status == 401
    assert "set-cookie" not in answer.headers


def test_a_body_that_is_no_password_signs_nobody_in() -> None:
    long, half = b'{"password": "' + b"a" * 10_000 + b'"}', b'{"password": "\\ud800"}'
    for body in (b"", b"[]", b"{", b"\xff", b"[" * 4000, half, long):
        assert ask(HOST, path="/sign-in", method="POST", body=body).status == 401
    assert ask(HOST, path="/sign-in", method="DELETE").status == 405


def test_pages_keep_their_scripts_at_home_and_data_is_never_run() -> None:
    page = ask(HOST, ("Authorization", BASIC), path="/runs").headers
    assert page["content-security-policy"] == PAGES.page_policy
    assert page["x-frame-options"] == "SAMEORIGIN", "in the place of the application's own"
    data = ask(HOST, ("Authorization", BASIC)).headers
    assert "sandbox" in data["content-security-policy"]
    assert "default-src 'none'" in data["content-security-policy"]
    for headers in (page, data, ask(HOST).headers, ask(("Host", "evil.test")).headers):
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_an_open_path_is_answered_to_anybody_of_this_machine_and_to_no_page() -> None:
    assert ask(HOST, path="/api/health").reached
    assert not ask(HOST, ("Origin", "http://evil.test"), path="/api/health").reached
    assert not ask(("Host", "evil.test"), path="/api/health").reached


def test_a_refused_websocket_is_closed_before_it_is_accepted() -> None:
    assert ask(HOST, scheme="ws").headers == {"socket": "websocket.close"}


@pytest.mark.parametrize("text", ["a.b", "a-b.example:80", "[::1]:80", "under_score"])
def test_names_that_may_be_listed(text: str) -> None:
    assert read_authority(text) is not None


FIRST = replace(PAGES, first_page="/", servers={"prefect": "http://127.0.0.1:4200"})
PAGE = ("Accept", "text/html")


def test_people_see_the_page_with_the_forms_first_and_programs_the_application() -> None:
    seen = ask(HOST, PAGE, path="/", application=FIRST)
    assert not seen.reached
    assert seen.status == 200
    assert b"/sign-in/start.js" in seen.body
    assert "script-src 'self'" in seen.headers["content-security-policy"]
    assert ask(HOST, ("Authorization", BASIC), path="/", application=FIRST).reached
    assert ask(HOST, PAGE, ("Authorization", BASIC), path="/").reached, "only where it is asked for"
    assert ask(("Host", "evil.test"), PAGE, path="/", application=FIRST).status == 403


def test_the_first_page_holds_nothing_of_the_server_and_learns_it_by_the_login() -> None:
    for path in ("/sign-in/start", "/sign-in/start.js"):
        shown = ask(HOST, path=path, application=FIRST)
        assert shown.status == 200
        assert b"4200" not in shown.body
    refused = ask(HOST, path="/sign-in/servers", application=FIRST)
    assert refused.status == 401
    assert b"4200" not in refused.body
    told = ask(HOST, ("Authorization", BASIC), path="/sign-in/servers", application=FIRST)
    assert json.loads(told.body) == {"prefect": "http://127.0.0.1:4200"}
    for path in ("/sign-in/start.html", "/sign-in/page.html", "/sign-in/../server_guard.py"):
        assert ask(HOST, path=path, application=FIRST).status == 404
