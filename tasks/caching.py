"""How a pipeline step is cached: by the content of what goes in, never by run, time or code text.

The caller computes the key from digests *before* the call. (An exception inside Prefect's own key
computation is swallowed and the step silently runs uncached.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext

from merge_core.records import Record

P = ParamSpec("P")
R = TypeVar("R", bound=Record)


@dataclass
class ContentKey(CachePolicy):
    """Cache key of one step.

    step: two steps with equal inputs must not share a result.
    version: raised by hand when the step's code changes what it returns.
    The rest of the key is the `key` argument: digests of everything else the result depends on.
    """

    step: str = ""
    version: int = 0

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str:
        """`step-vN-key`, a readable file name in the result storage."""
        return f"{self.step}-v{self.version}-{inputs['key']}"


def content_task(step: str, version: int, **options: Any) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A Prefect task cached by its first parameter, `key: str`, with its record kept as JSON."""

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        return task(
            function,
            name=step,
            cache_policy=ContentKey(step=step, version=version),
            persist_result=True,
            result_serializer="json",
            **options,
        )

    return decorate
