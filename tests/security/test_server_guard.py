"""The real servers, attacked without a browser: by pages, by other names, by other users.

Prefect is the server that `mergeflow run` starts, MLflow that of `mergeflow up`. What a browser
adds is in `tests/stack/test_attacks_in_browser.py`.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from prefect.server.api.server import API_ROUTERS
from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings
from starlette.routing import Route, WebSocketRoute
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from flows.stack.prefect_session import PrefectSession
from merge_core.errors import StepError
from merge_core.homes.home import Home
from tasks.registry.client import open_registry
from tasks.servers.login import Login, home_login, password_file
from tasks.servers.same_process import own_start_time
from tasks.servers.stack_record import StackRecord, write_record
from tests.support.guarded_mlflow import guarded_mlflow


@dataclass(frozen=True)
class Server:
    """A real server, and an order that it must not take from a stranger."""

    address: str
    login: Login
    order: str
    """Path that takes a new name by POST."""
    reads: str
    """Path that tells the names by POST."""

    def ask(
        self, path: str, body: Any = None, *, login: bool = True, **headers: str
    ) -> tuple[int, str]:
        """Status and text of an answer; `_` in a header's name stands for `-`."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if login:
            given["Authorization"] = self.login.header
        connection = http.client.HTTPConnection(urlsplit(self.address).netloc, timeout=30)
        method = "GET" if body is None else "POST"
        text = None if body is None else json.dumps(body)
        connection.putrequest(method, path, skip_host="Host" in given)
        for name, value in {"Content-Type": "application/json", **given}.items():
            connection.putheader(name, value)
        if text is not None:
            connection.putheader("Content-Length", str(len(text)))
        connection.endheaders(None if text is None else text.encode())
        answer = connection.getresponse()
        found = answer.status, answer.read().decode(errors="replace")
        connection.close()
        return found

    def gives_order(self, name: str, *, login: bool = True, **headers: str) -> int:
        """Status of an attempt to have a name recorded."""
        return self.ask(self.order, {"name": name, "value": "x"}, login=login, **headers)[0]

    def has(self, name: str) -> bool:
        """Whether it was recorded."""
        status, text = self.ask(self.reads, {})
        if status == 405:
            status, text = self.ask(self.reads)
        assert status == 200, text
        return name in text


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """MLflow behind the guard."""
    login = Login("mergeflow:for-this-test")
    with guarded_mlflow(tmp_path_factory.mktemp("mlflow"), login) as address:
        order = "/api/2.0/mlflow/registered-models/create"
        yield Server(address, login, order, "/api/2.0/mlflow/registered-models/search")


@pytest.fixture(params=["prefect", "mlflow"])
def server(
    request: pytest.FixtureRequest, prefect: PrefectSession, prefect_home: Home, mlflow: Server
) -> Server:
    """Each of both servers."""
    if request.param == "mlflow":
        return mlflow
    address = prefect.api_url.removesuffix("/api")
    login = home_login(prefect_home)
    return Server(address, login, "/api/variables/", "/api/variables/filter")


def test_its_user_is_answered_by_every_name_of_the_loopback_interface(server: Server) -> None:
    port = urlsplit(server.address).port
    assert server.gives_order("known_order") in (200, 201)
    assert server.has("known_order")
    for name in (f"localhost:{port}", f"[::1]:{port}", "127.0.0.1:14200"):
        assert server.ask(server.reads, {}, Host=name, Origin=f"http://{name}")[0] in (200, 405)


@pytest.mark.parametrize(
    "origin", ["http://evil.test", "null", "http://localhost:8888", "http://127.0.0.1:8888"]
)
def test_a_page_of_another_origin_or_port_gives_no_order_with_the_password_too(
    server: Server, origin: str
) -> None:
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
        assert server.gives_order("by_a_page", Origin=origin, Content_Type=kind) == 403
    assert not server.has("by_a_page")


def test_a_name_that_was_led_here_gives_no_order_with_the_password_too(server: Server) -> None:
    port = urlsplit(server.address).port
    rebound = f"rebind.evil.test:{port}"
    assert server.gives_order("by_rebinding", Host=rebound, Origin=f"http://{rebound}") == 403
    assert server.gives_order("by_rebinding", Host=rebound) == 403
    assert server.ask("/health", Host=rebound)[0] == 403
    assert not server.has("by_rebinding")


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_browser_says_another_page_sends_is_refused(server: Server, site: str) -> None:
    said = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "empty"}
    assert server.gives_order("by_a_script", **said) == 403
    assert not server.has("by_a_script")


def test_without_the_password_nobody_gives_an_order_or_reads_anything(server: Server) -> None:
    assert server.gives_order("by_a_stranger", login=False) == 401
    wrong = "Basic " + base64.b64encode(b"mergeflow:wrong").decode()
    assert server.gives_order("by_a_stranger", login=False, Authorization=wrong) == 401
    assert server.ask(server.reads, login=False)[0] == 401
    assert server.ask(server.reads, {}, login=False)[0] == 401
    assert not server.has("by_a_stranger")


def test_no_path_of_prefects_is_open_but_its_health(prefect: PrefectSession) -> None:
    connection = http.client.HTTPConnection(urlsplit(prefect.api_url).netloc, timeout=30)
    answered, closed = set(), 0
    routes = [route for router in API_ROUTERS for route in router.routes]
    for route in [route for route in routes if isinstance(route, Route)]:
        for method in route.methods or ():
            connection.request(method, f"/api{route.path}")
            answer = connection.getresponse()
            answer.read()
            closed += answer.status == 401
            if answer.status != 401:
                answered.add((method, route.path))
    assert closed > 150
    assert answered <= {("GET", "/ready"), ("GET", "/health")}


def sockets() -> list[str]:
    """Paths of every websocket that Prefect's server has."""
    return [
        route.path.replace("{work_pool_name}", "any")
        for router in API_ROUTERS
        for route in router.routes
        if isinstance(route, WebSocketRoute)
    ]


def test_no_websocket_of_prefects_is_opened_for_a_page_or_without_the_password(
    prefect: PrefectSession, prefect_home: Home
) -> None:
    base = prefect.api_url.replace("http", "ws")
    assert len(sockets()) >= 4
    for path in sockets():
        for origin in ("http://evil.test", "http://localhost:8888", "null"):
            with pytest.raises(InvalidStatus, match="403"):
                connect(f"{base}{path}", subprotocols=["prefect"], origin=origin)
        with pytest.raises((ConnectionClosed, InvalidStatus)):
            connect(f"{base}{path}").recv(timeout=10)
        for token in ("wrong", "", None):
            with connect(f"{base}{path}", subprotocols=["prefect"]) as socket:
                socket.send(json.dumps({"type": "auth", "token": token}))
                with pytest.raises(ConnectionClosed):
                    socket.recv(timeout=10)
    with connect(f"{base}/events/out", subprotocols=["prefect"]) as socket:
        socket.send(json.dumps({"type": "auth", "token": home_login(prefect_home).text}))
        assert json.loads(socket.recv(timeout=10)) == {"type": "auth_success"}


def test_the_page_asks_its_own_origin_and_is_told_to_ask_for_the_password(
    prefect: PrefectSession,
) -> None:
    address = urlsplit(prefect.api_url).netloc
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request("GET", "/ui-settings", headers={"Host": "localhost:14200"})
    settings = json.loads(connection.getresponse().read())
    assert settings["api_url"] == "/api"
    assert settings["auth"] == "BASIC"


STRANGER = """
import os, sys, urllib.error, urllib.request
"localhost".encode("idna")  # imports what this user may not read afterwards
os.setgid(65534), os.setuid(65534)
kind = {"Content-Type": "application/json"}
for address in sys.argv[2:]:
    try:
        urllib.request.urlopen(urllib.request.Request(address, b"{}", kind))
        print("answered", address)
    except urllib.error.HTTPError as error:
        print(error.code)
try:
    print("read", open(sys.argv[1]).read())
except PermissionError:
    print("no password")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_another_user_of_the_machine_is_answered_by_neither_and_reads_no_password(
    server: Server,
) -> None:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are closed to other users
        place = Home(Path(directory))
        place.path.chmod(0o755)  # even in a home that somebody has opened
        home_login(place)
        command = [sys.executable, "-c", STRANGER, str(password_file(place))]
        orders = [server.address + server.order, server.address + server.reads]
        done = subprocess.run([*command, *orders], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["401", "401", "no password"], done.stderr


def test_mlflows_client_logs_in_at_the_stack_of_this_home_and_nowhere_else(
    mlflow: Server, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    with pytest.raises(StepError, match="MLFLOW_TRACKING_PASSWORD"), _registry(mlflow) as registry:
        registry.client.search_registered_models()
    home.path.mkdir(exist_ok=True)
    password_file(home).write_text(mlflow.login.text)
    password_file(home).chmod(0o600)
    start = own_start_time()
    write_record(home, StackRecord("x", os.getpid(), start - 3600, "", mlflow.address, "/"))
    with pytest.raises(StepError, match="wants another login"), _registry(mlflow) as registry:
        registry.client.search_registered_models()  # that stack is gone: who listens there now?
    write_record(home, StackRecord("x", os.getpid(), start, "", mlflow.address, "/"))
    with _registry(mlflow) as registry:
        registry.client.search_registered_models()
    write_record(home, StackRecord("x", os.getpid(), start, "", "http://127.0.0.1:1", "/"))
    with pytest.raises(StepError, match="wants another login"), _registry(mlflow) as registry:
        registry.client.search_registered_models()


def test_mlflows_client_takes_the_users_own_login(
    mlflow: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    with (
        pytest.raises(StepError, match="wants another login") as refused,
        _registry(mlflow) as registry,
    ):
        registry.client.search_registered_models()
    said = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    assert str(refused.value.mend).startswith(said)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", mlflow.login.user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", mlflow.login.password)
    with _registry(mlflow) as registry:
        registry.client.search_registered_models()


def _registry(server: Server) -> Any:
    return open_registry(server.address)


def test_prefects_client_without_the_password_is_told_before_any_work(
    prefect: PrefectSession,
) -> None:
    session = PrefectSession(prefect.api_url, None)
    session.ready()
    with (
        temporary_settings({PREFECT_API_AUTH_STRING: "mergeflow:wrong"}),
        pytest.raises(StepError, match="PREFECT_API_AUTH_STRING") as refused,
    ):
        session.ready()
    assert str(refused.value.mend).startswith("set PREFECT_API_AUTH_STRING to its NAME:PASSWORD")
    session.ready()  # with the right one, which is set again


def test_an_artifact_opened_by_its_address_runs_nothing_in_the_servers_name(
    mlflow: Server,
) -> None:
    connection = http.client.HTTPConnection(urlsplit(mlflow.address).netloc, timeout=30)
    login = {"Authorization": mlflow.login.header}
    path = "/api/2.0/mlflow-artifacts/artifacts/planted.html"
    connection.request("PUT", path, "<script>alert(1)</script>", login)
    assert connection.getresponse().read() in (b"", b"{}")
    for place in (path, path.replace("/api/", "/ajax-api/")):
        connection.request("GET", place, headers=login)
        answer = connection.getresponse()
        assert b"alert" in answer.read()
        assert "sandbox" in str(answer.headers["Content-Security-Policy"])
        assert "default-src 'none'" in str(answer.headers["Content-Security-Policy"])
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_no_log_of_the_servers_holds_the_password(
    server: Server, prefect_home: Home, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server.gives_order("by_a_page", Origin="http://evil.test")
    server.ask("/sign-in", {"password": server.login.text}, login=False)
    logs = [*prefect_home.logs.iterdir(), *tmp_path_factory.getbasetemp().glob("mlflow*/*.log")]
    assert len(logs) >= 2
    assert not [log for log in logs if server.login.password in log.read_text(errors="replace")]
