"""What MLflow does not have, as None: its client raises there."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

T = TypeVar("T")


def none_if_absent(ask: Callable[..., T], *about: Any, or_said: Collection[str] = ()) -> T | None:
    """What MLflow answers; None where it says that there is no such thing.

    Args:
        ask: a method of MLflow's client, or what calls one.
        or_said: other codes of MLflow's by which the same is said of what is asked for.
    """
    from mlflow.exceptions import MlflowException

    try:
        return ask(*about)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", *or_said):
            raise
        return None
