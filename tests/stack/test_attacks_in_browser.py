"""The user's own browser, signed in at both servers, is led to a stranger's pages.

Real Chromium, real servers. Whether an attack succeeded is asked of the server: is the name there
that the page wanted recorded? Not part of `make test`: `make stack`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.support.browser import SECONDS, chromium, links
from tests.support.stack import RunningStack

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ATTACKS = (Path(__file__).parent / "attacks.js").read_text()
KINDS = ("json", "anonymous", "text", "bytes", "beacon", "form", "socket")


@dataclass(frozen=True)
class Target:
    """A server as an attacker knows it."""

    server: str
    order: str
    socket: str = "/api/events/in"

    def port(self, stack: RunningStack) -> int:
        return stack.prefect_port if self.server == "Prefect" else stack.mlflow_port

    def recorded(self, stack: RunningStack) -> str:
        """Every name that the server was told."""
        if self.server == "MLflow":
            return str(stack.mlflow("/registered-models/search"))
        events = {"filter": {"occurred": {"since": "2020-01-01T00:00:00Z"}}, "limit": 50}
        told = [stack.prefect("/variables/filter", {}), stack.prefect("/events/filter", events)]
        return str(told)


TARGETS = [
    Target("Prefect", "/api/variables/"),
    Target("MLflow", "/api/2.0/mlflow/registered-models/create"),
]


@pytest.fixture(scope="module")
def attacker() -> Iterator[int]:
    """The port of a web server of somebody else's on this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>harmless</title><body>")

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser whose names all lead here: those of strangers, and one that was rebound.

    Without Chromium's own checks of local addresses, which other browsers do not have.
    """
    checks = "--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets"
    with chromium("--host-resolver-rules=MAP *.test 127.0.0.1", checks) as browser:
        yield browser


@pytest.fixture
def signed_in(browser: Browser, stack: RunningStack) -> Iterator[BrowserContext]:
    """A user who has signed in by both links, at both names of this machine."""
    context = browser.new_context()
    context.set_default_timeout(SECONDS)
    page = context.new_page()
    for link in links(stack).values():
        for name in ("127.0.0.1", "localhost"):
            page.goto(link.replace("127.0.0.1", name))
            page.wait_for_function("() => location.pathname !== '/sign-in'")
    page.close()
    yield context
    context.close()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.server)
@pytest.mark.parametrize("place", ["http://evil.test:{}", "http://localhost:{}"])
def test_a_page_of_another_origin_or_port_gives_no_order(
    signed_in: BrowserContext, stack: RunningStack, attacker: int, target: Target, place: str
) -> None:
    page = signed_in.new_page()
    page.goto(place.format(attacker))
    for name in ("127.0.0.1", "localhost"):
        base = f"http://{name}:{target.port(stack)}"
        assert attack(page, base, target, f"page_{name[0]}_{place[7]}") == []
    assert "page_" not in target.recorded(stack)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.server)
def test_a_name_that_was_rebound_to_this_machine_gives_no_order(
    signed_in: BrowserContext, stack: RunningStack, target: Target
) -> None:
    base = f"http://rebound.test:{target.port(stack)}"
    page = signed_in.new_page()
    answer = page.goto(f"{base}/")
    assert answer is not None
    assert answer.status == 403
    # The page itself was loaded before the name was led here.
    page.route(f"{base}/page", lambda route: route.fulfill(body="<body>", content_type="text/html"))
    page.goto(f"{base}/page")
    assert attack(page, base, target, "rebound") == []
    assert "rebound_" not in target.recorded(stack)


def attack(page: Page, base: str, target: Target, prefix: str) -> list[str]:
    """Kinds of attempts whose answers the page could read."""
    names = {kind: f"{prefix}_{kind}" for kind in KINDS}
    given = {"base": base, "order": target.order, "names": names, "socket": target.socket}
    return list(page.evaluate(ATTACKS, given))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.server)
def test_the_same_orders_of_the_servers_own_page_are_carried_out(
    signed_in: BrowserContext, stack: RunningStack, target: Target
) -> None:
    """What the attacks above try is something that works; else they would show nothing."""
    base = f"http://127.0.0.1:{target.port(stack)}"
    page = signed_in.new_page()
    page.goto(base)
    login = {"Content-Type": "application/json"}
    if target.server == "Prefect":
        login["Authorization"] = "Basic " + page.evaluate("localStorage['prefect-password']")
    status = page.evaluate(
        "async ([path, headers]) => (await fetch(path, {method: 'POST', headers,"
        " body: JSON.stringify({name: 'by_its_user', value: 'x'})})).status",
        [target.order, login],
    )
    assert status in (200, 201)
    assert "by_its_user" in target.recorded(stack)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.server)
def test_no_page_of_a_stranger_shows_a_server_in_a_frame(
    signed_in: BrowserContext, stack: RunningStack, attacker: int, target: Target
) -> None:
    page = signed_in.new_page()
    page.goto(f"http://localhost:{attacker}")
    address = f"http://localhost:{target.port(stack)}/"
    page.evaluate(
        "address => new Promise(done => { const frame = document.createElement('iframe');"
        " frame.onload = done; frame.src = address; document.body.append(frame) })",
        address,
    )
    (frame,) = page.main_frame.child_frames
    assert not frame.url.startswith(address) or frame.locator("#app, #root").count() == 0


def test_the_link_signs_in_and_leaves_no_password_in_the_address(
    browser: Browser, stack: RunningStack
) -> None:
    for server, link in links(stack).items():
        context = browser.new_context()
        context.set_default_timeout(SECONDS)
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(link)
        page.wait_for_function("() => location.pathname !== '/sign-in'")
        shown = {"Prefect": "Dashboard", "MLflow": "Experiments"}[server]
        page.get_by_text(shown).first.wait_for()
        password = stack.login.partition(":")[2]
        assert password not in page.url
        assert not [url for url in asked if password in url.partition("#")[0]]
        page.go_back()
        assert password not in page.url
        context.close()


def test_the_page_for_a_typed_password_takes_the_right_one_alone(
    browser: Browser, stack: RunningStack
) -> None:
    context = browser.new_context()
    context.set_default_timeout(SECONDS)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{stack.mlflow_port}/#/models")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("This is not the password").wait_for()
    page.get_by_label("Password").fill(stack.login.partition(":")[2])
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("Registered Models").first.wait_for()
    assert page.url.endswith("/#/models"), "the page that was wanted"
    context.close()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_every_name_and_every_tunnel_leads_to_pages_that_work(
    browser: Browser, stack: RunningStack, name: str
) -> None:
    with tunnel(stack.prefect_port) as through:
        for port in (stack.prefect_port, through):
            context = browser.new_context()
            context.set_default_timeout(SECONDS)
            page = context.new_page()
            link = links(stack)["Prefect"]
            page.goto(link.replace(f"127.0.0.1:{stack.prefect_port}", f"{name}:{port}"))
            page.wait_for_function("() => location.pathname !== '/sign-in'")
            for look in ("/v2/deployments", "/deployments"):
                page.goto(f"http://{name}:{port}{look}")
                page.get_by_text("merge-scheduled").first.wait_for()
            context.close()


@contextlib.contextmanager
def tunnel(port: int) -> Iterator[int]:
    """Another port of this machine that leads to a port, as `ssh -L` makes it."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)

    class Carrier(BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as onward:
                back = threading.Thread(target=pump, args=(onward, self.request))
                back.start()
                pump(self.request, onward)
                back.join()

    with ThreadingTCPServer(("127.0.0.1", 0), Carrier) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_pages_ask_nobody_but_their_own_server(
    signed_in: BrowserContext, stack: RunningStack
) -> None:
    page = signed_in.new_page()
    answered: set[str] = set()
    broken: list[str] = []

    def heard(said: ConsoleMessage) -> None:
        if "Content Security Policy" in said.text and "https://" not in said.text:
            broken.append(said.text)

    page.on("response", lambda response: answered.add(urlsplit(response.url).netloc))
    page.on("console", heard)
    page.expose_function("forbidden", lambda what: broken.append(what))
    # What a page catches itself, as the old look does with `eval`, reaches no console.
    page.add_init_script(
        "document.addEventListener('securitypolicyviolation', told =>"
        " told.blockedURI.startsWith('https://') || forbidden(told.blockedURI))"
    )
    own = [f"127.0.0.1:{port}" for port in (stack.prefect_port, stack.mlflow_port)]
    looks = ("/v2/dashboard", "/v2/runs", "/dashboard", "/blocks/catalog"), ("/#/models",)
    for place, paths in zip(own, looks, strict=True):
        for path in paths:
            page.goto(f"http://{place}{path}")
            page.wait_for_timeout(2500)
    assert answered - {""} == set(own)  # data: and blob: have no place
    assert broken == [], "the policy forbids something of the pages' own"
    page.goto(f"http://{own[0]}/dashboard")
    page.locator("html.dark, html.light").wait_for()  # else dialogs of the old look are transparent


def test_a_script_in_an_artifact_does_not_act_in_the_users_name(
    signed_in: BrowserContext, stack: RunningStack
) -> None:
    from playwright.sync_api import Error

    page = signed_in.new_page()
    base = f"http://127.0.0.1:{stack.mlflow_port}"
    page.goto(f"{base}/#/experiments")
    script = (
        "<script>fetch('/api/2.0/mlflow/registered-models/create', {method: 'POST', headers:"
        " {'Content-Type': 'application/json'}, body: '{\"name\": \"by_an_artifact\"}'})</script>"
    )
    path = "/ajax-api/2.0/mlflow-artifacts/artifacts/planted.html"
    stored = page.evaluate(
        "async ([path, body]) => (await fetch(path, {method: 'PUT', body})).status", [path, script]
    )
    assert stored == 200
    for place in (path, path.replace("/ajax-api/", "/api/")):
        with page.context.new_page() as opened, contextlib.suppress(Error):  # it is a download
            opened.goto(base + place)
            opened.wait_for_timeout(1500)
    assert "by_an_artifact" not in str(stack.mlflow("/registered-models/search"))
