"""MLflow's clients log in at the MLflow server of this home's stack, and nowhere else.

A login in the environment would be sent to whatever registry a pipeline names. This one is chosen
by the address of each request.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from mlflow.exceptions import MlflowException
from mlflow.tracking.request_auth import registry
from mlflow.tracking.request_auth.abstract_request_auth_provider import RequestAuthProvider
from requests import PreparedRequest
from requests.auth import AuthBase

from merge_core.homes.home import Home
from tasks.servers.login import stack_login
from tasks.servers.stack_record import running_stack

_NAME = "mergeflow"


def log_in_at_the_stack() -> None:
    """Let MLflow's clients of this process know the login; a provider of the user's own stays."""
    if "MLFLOW_TRACKING_AUTH" in os.environ:
        return
    os.environ["MLFLOW_TRACKING_AUTH"] = _NAME
    registry._request_auth_provider_registry.register(_StackAuthProvider)


def was_refused(error: MlflowException) -> bool:
    """Whether a server wants a login, or another one than it was given."""
    return error.get_http_status_code() in (401, 403)


class _StackAuthProvider(RequestAuthProvider):
    def get_name(self) -> str:
        return _NAME

    def get_auth(self) -> AuthBase:
        return _StackAuth()


class _StackAuth(AuthBase):
    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        home = Home.discover()
        stack = running_stack(home)
        if stack is not None and _origin(request.url) == _origin(stack.mlflow):
            request.headers["Authorization"] = stack_login(home).header
        return request


def _origin(address: str | None) -> tuple[Any, ...]:
    """Where a request goes. Names are not resolved: another user may listen on `::1`."""
    parts = urlsplit(address or "")
    return parts.scheme, parts.hostname, parts.port
