"""How a pipeline step is cached: by the content of what goes in, never by run, time or code text.

`ContentKey.of` computes the key from digests *before* the call. (An exception inside Prefect's own
key computation is swallowed and the step silently runs uncached.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_type_hints

from prefect import Task, task
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.settings import get_current_settings

from merge_core.files.untrusted import is_file_name
from merge_core.records import Record
from tasks.caching.record_storage import RecordStorage

P = ParamSpec("P")
R = TypeVar("R", bound=Record)

Fits = Callable[..., bool]
"""Whether a record belongs to a step's arguments: takes the record, and the arguments by name.
The digests in the record are compared with those of the arguments."""


Key = Callable[..., str]
"""The digest of everything that a step's result depends on: takes some of the step's arguments, by
name."""


@dataclass(kw_only=True)
class ContentKey(CachePolicy):
    """Cache key of one step, and the storage that Prefect has to read its record through.

    step: two steps with equal inputs must not share a result.
    version: raised by hand when the step's code returns other results.
    kind: the class of record that the step returns.
    key: see `Key`.
    fits: see `Fits`.
    value: the key of one call; `of` gives a step its policy for that call.
    """

    step: str
    version: int
    kind: type[Record]
    key: Key
    fits: Fits
    value: str = ""

    def of(self, step: Callable[..., Any], *arguments: Any, **options: Any) -> ContentKey:
        """This policy with the key of one call of the step, a function."""
        call = signature(step).bind(*arguments, **options)
        call.apply_defaults()
        taken = signature(self.key).parameters.keys() & call.arguments.keys()
        return replace(self, value=self.key(**{name: call.arguments[name] for name in taken}))

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str:
        """`step-vN-value`, a readable file name.

        Prefect asks for it before it looks for a result, at each attempt, and whatever the task's
        options are. So this is where its storage is replaced: whoever calls the step, no stored
        result is read but through `RecordStorage`. (Options accept no storage that a server does
        not know.) If anything is wrong here, Prefect looks for no result at all.
        """
        name = f"{self.step}-v{self.version}-{self.value}"
        if not (self.value and is_file_name(name)):
            raise ValueError(f"{name!r} cannot be the name of a file")
        directory = get_current_settings().results.local_storage_path
        path = Path(directory).expanduser().absolute() / name
        fits = partial(self.fits, key=self.value, **inputs)
        task_ctx.result_store.result_storage = RecordStorage.of(path, self.kind, fits)
        task_ctx.result_store.metadata_storage = None
        return name


def content_task(
    step: str, version: int, *, key: Key, fits: Fits, **options: Any
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A Prefect task cached by the content of what goes in, with its record kept as JSON.

    `flows.run_step.run_step` computes the key before it calls the task; called otherwise, the task
    finds and keeps nothing.

    Args:
        fits: is told the key too, as `key`.

    Raises:
        TypeError: the function does not say that it returns one class of record.
    """

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        kind = get_type_hints(function).get("return")
        if not (isinstance(kind, type) and issubclass(kind, Record)):
            raise TypeError(f"step '{step}' must be annotated with the record that it returns")
        as_task: Callable[[Callable[P, R]], Task[P, R]] = task(
            name=step,
            cache_policy=ContentKey(step=step, version=version, kind=kind, key=key, fits=fits),
            persist_result=True,
            result_serializer="json",
            **options,
        )
        return as_task(function)

    return decorate
