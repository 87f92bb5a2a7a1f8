"""When a failed step is worth another try: a network that is away, never a mistake or a bug."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

RetryCondition = Callable[[Task[Any, Any], TaskRun, State[Any]], bool]


def only_on(*errors: type[Exception]) -> RetryCondition:
    """A Prefect `retry_condition_fn` that retries these errors and shows every other at once."""

    def condition(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
        try:
            state.result()
        except errors:
            return True
        except Exception:
            return False
        return False

    return condition
