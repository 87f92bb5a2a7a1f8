"""Prefect's server behind the guard.

Run as `python -m flows.servers.prefect_server FD` by commands that end it with themselves: FD is a
listening socket, and standard input is the lifeline. Or as `python -m flows.servers.prefect_server
HOST:PORT`. The login is `PREFECT_SERVER_API_AUTH_STRING`, which Prefect asks for as well.
"""

from __future__ import annotations

import base64

from flows.servers.guard import App, Application, ServerGuard
from flows.servers.named_runs import NamedRuns
from flows.servers.serving import allowed_hosts, required, serve, servers_beside
from flows.servers.whole_characters import WholeCharacters
from tasks.servers.login import SERVER_VARIABLE, Login

# Without `eval` no run's graph is drawn (pixi.js), and the old look has no colours: it asks with
# `eval` whether there is a `document`, and its dialogs are transparent where it may not ask.
_PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self';"
    " worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self';"
    " frame-ancestors 'none'"
)
_OPEN = ("/api/health", "/api/ready")


def main() -> None:
    """Serve the API and the UI until told to stop."""
    serve(guarded)


def guarded() -> App:
    """Prefect's application, as the environment sets it up, behind the guard.

    Raises:
        MergeflowError: the environment holds no login.
    """
    login = Login(required(SERVER_VARIABLE))
    from prefect.server.api.server import create_app

    _keep_catalogues_here()
    application = Application(
        is_page=lambda path: not _is_api(path),
        page_policy=_PAGE_POLICY,
        needs_login=lambda method, path: _is_api(path) and not (method == "GET" and path in _OPEN),
        sockets_need_login=False,  # Prefect's protocol asks for it in the first message
        remembers=lambda login: {
            "prefect-password": base64.b64encode(login.text.encode()).decode()
        },
        first_page="/",
        servers=servers_beside() | {"here": "prefect"},
    )
    app = WholeCharacters(NamedRuns(create_app()))
    return ServerGuard(app, application, login, allowed_hosts())


def _is_api(path: str) -> bool:
    return path == "/api" or path.startswith("/api/")


def _keep_catalogues_here() -> None:
    """Answer the pages that ask for lists of blocks and workers from what is installed: Prefect
    would fetch them from GitHub, and takes its own copy when that fails."""
    from prefect.server.api import collections

    collections.KNOWN_VIEWS.update(dict.fromkeys(collections.KNOWN_VIEWS, ""))


if __name__ == "__main__":
    main()
