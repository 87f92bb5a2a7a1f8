"""How a registry can fail, in words: away, locked, not MLflow, or a refusal of MLflow's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from merge_core.errors import StepError

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException

_LOGIN = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; at the server of `mergeflow up`,"
    " write its address as `mergeflow status` says it"
)
_REFUSED = {
    True: "what was recorded so far is kept: mend the cause and run again to complete it",
    False: "nothing was changed: mend the cause and run again",
}
"""By whether something was to be written."""
_PAGE = re.compile(r"error code (40\d|501) != 200\. Response body: .{0,3}\s*<", re.IGNORECASE)
"""A page where MLflow answers in JSON, with a code by which no proxy says that it is away."""


class RegistryUnreachableError(StepError):
    """The MLflow server did not answer: worth another try, unlike every other failure here."""


def in_words(
    error: MlflowException, said: str, address: str, database: Path | None, *, writing: bool
) -> StepError:
    """What MLflow's own error means for a person.

    Args:
        said: its text, without credentials.
        address: likewise.
        database: the local one, where there is no server.
        writing: whether something was to be written.
    """
    from tasks.registry.login import was_refused

    is_server = address.startswith(("http:", "https:"))
    if database is not None and "database is locked" in said:
        return locked(database)
    if is_server and was_refused(error):
        return StepError(
            f"the MLflow server wants another login: {said}", where=address, mend=_LOGIN
        )
    if is_server and (code := _PAGE.search(said)):
        return StepError(
            f"what answers there is not MLflow (HTTP {code[1]})",
            where=address,
            mend="see that this is the address of an MLflow server, or name another one",
        )
    # Files may be on a server though the rest is in a database here.
    if (is_server or "API request to" in said) and is_network_failure(error):
        return unreachable(address, said)
    return StepError(f"MLflow refused: {said}", where=address, mend=_REFUSED[writing])


def unreachable(address: str, said: str) -> RegistryUnreachableError:
    """A server that does not answer."""
    return RegistryUnreachableError(
        f"the MLflow server does not answer ({said})",
        where=address,
        mend="start it, or check the address, and run the same command again",
    )


def locked(database: Path) -> RegistryUnreachableError:
    """A local database in which another program writes for long."""
    return RegistryUnreachableError(
        "the MLflow database is locked by another program",
        where=str(database),
        mend="wait until it is done, and run the same command again",
    )


def is_network_failure(error: BaseException) -> bool:
    """Whether nobody answered, or only what stands before a server that is away."""
    import requests

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (requests.exceptions.ConnectionError, requests.exceptions.Timeout)):
            return True
        seen = seen.__cause__ or seen.__context__
    status = getattr(error, "get_http_status_code", lambda: 0)()
    return "API request to" in str(error) or status in (502, 503, 504)
