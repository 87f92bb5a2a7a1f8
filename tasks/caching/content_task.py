"""How a pipeline step is cached: by the content of what goes in, never by run, time or code text.

The caller computes the key from digests *before* the call. (An exception inside Prefect's own key
computation is swallowed and the step silently runs uncached.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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


def _fits_nothing(_record: Record, /, **_arguments: object) -> bool:
    return False


@dataclass
class ContentKey(CachePolicy):
    """Cache key of one step, and the storage that Prefect has to read its record through.

    step: two steps with equal inputs must not share a result.
    version: raised by hand when the step's code returns other results.
    kind: the class of record that the step returns.
    fits: see `Fits`.
    The rest of the key is the `key` argument: digests of everything else the result depends on.
    """

    step: str = ""
    version: int = 0
    kind: type[Record] = Record
    fits: Fits = _fits_nothing

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str:
        """`step-vN-key`, a readable file name.

        Prefect asks for it before it looks for a result, at each attempt, and whatever the task's
        options are. So this is where its storage is replaced: whoever calls the step, no stored
        result is read but through `RecordStorage`. (Options accept no storage that a server does
        not know.) If anything is wrong here, Prefect looks for no result at all.
        """
        name = f"{self.step}-v{self.version}-{inputs['key']}"
        if not is_file_name(name):
            raise ValueError(f"{name!r} cannot be the name of a file")
        directory = get_current_settings().results.local_storage_path
        path = Path(directory).expanduser().absolute() / name
        fits = partial(self.fits, **inputs)
        task_ctx.result_store.result_storage = RecordStorage.of(path, self.kind, fits)
        task_ctx.result_store.metadata_storage = None
        return name


def content_task(
    step: str, version: int, fits: Fits, **options: Any
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A Prefect task cached by its first parameter, `key: str`, with its record kept as JSON.

    Raises:
        TypeError: the function does not say that it returns one class of record.
    """

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        kind = get_type_hints(function).get("return")
        if not (isinstance(kind, type) and issubclass(kind, Record)):
            raise TypeError(f"step '{step}' must be annotated with the record that it returns")
        as_task: Callable[[Callable[P, R]], Task[P, R]] = task(
            name=step,
            cache_policy=ContentKey(step=step, version=version, kind=kind, fits=fits),
            persist_result=True,
            result_serializer="json",
            **options,
        )
        return as_task(function)

    return decorate
