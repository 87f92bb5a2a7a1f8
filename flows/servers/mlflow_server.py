"""MLflow's server behind the guard, which asks for the login that MLflow itself knows nothing of.

Run as `python -m flows.servers.mlflow_server FD` or `HOST:PORT`, as `flows.servers.prefect_server`
is. Everything else comes from the environment: `MLFLOW_BACKEND_STORE_URI`,
`MLFLOW_ARTIFACTS_DESTINATION`, and as login the `MLFLOW_TRACKING_USERNAME` and
`MLFLOW_TRACKING_PASSWORD` that MLflow's clients send.
"""

from __future__ import annotations

import os
import uuid

from flows.servers import sign_in_page
from flows.servers.guard import App, Application, ServerGuard
from flows.servers.request_origin import LOOPBACK, AllowedHosts
from flows.servers.serving import allowed_hosts, required, serve, servers_beside
from tasks.servers.login import Login

_PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:;"
    " connect-src 'self' blob: data:; worker-src 'self' blob:; frame-src 'self' blob:;"
    " object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)


def main() -> None:
    """Serve the API, the artifacts and the UI until told to stop."""
    serve(guarded)


def guarded() -> App:
    """MLflow's application, as the environment sets it up, behind the guard.

    Raises:
        MergeflowError: the environment holds no login or no database.
    """
    user = required("MLFLOW_TRACKING_USERNAME")
    login = Login(f"{user}:{required('MLFLOW_TRACKING_PASSWORD')}")
    hosts = allowed_hosts()
    _set_up(required("MLFLOW_BACKEND_STORE_URI"), hosts)
    from mlflow.server.fastapi_app import app

    application = Application(
        is_page=lambda path: path == "/" or path.startswith("/static-files/"),
        page_policy=_PAGE_POLICY,
        needs_login=lambda method, path: not (method == "GET" and path == "/health"),
        sockets_need_login=True,
        start=sign_in_page.START,
        servers=servers_beside() | {"here": "mlflow"},
    )
    return ServerGuard(app, application, login, hosts)


def _set_up(database: str, hosts: AllowedHosts) -> None:
    """What `mlflow server` does before it starts the process that answers."""
    from mlflow.server.constants import (
        ARTIFACT_ROOT_ENV_VAR,
        ARTIFACTS_DESTINATION_ENV_VAR,
        BACKEND_STORE_URI_ENV_VAR,
        REGISTRY_STORE_URI_ENV_VAR,
        SERVE_ARTIFACTS_ENV_VAR,
    )

    root = "mlflow-artifacts:/"
    names = [*LOOPBACK, *hosts.listed]
    os.environ |= {
        BACKEND_STORE_URI_ENV_VAR: database,
        REGISTRY_STORE_URI_ENV_VAR: database,
        ARTIFACT_ROOT_ENV_VAR: root,
        SERVE_ARTIFACTS_ENV_VAR: "true",
        ARTIFACTS_DESTINATION_ENV_VAR: required("MLFLOW_ARTIFACTS_DESTINATION"),
        "MLFLOW_ENABLE_WORKSPACES": "false",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "_MLFLOW_SERVER_BOOT_ID": uuid.uuid4().hex,
        "_MLFLOW_IN_JOB_EXECUTOR": "false",
        # Its own look at Host and Origin, which is wider, must not be narrower than the guard's.
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(
            pattern for name in names for pattern in (name, f"{name}:*".replace("[", "[[]"))
        ),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(
            f"{scheme}://{name}{port}"
            for name in hosts.listed
            for scheme in ("http", "https")
            for port in ("", ":*")
        ),
    }
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(database, database, root)


if __name__ == "__main__":
    main()
