"""The resolve step: references of a recipe become checkpoints on this disk, known by content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.records import SourceCheckpoint
from merge_core.verification.tolerance import STRICT, Tolerance
from tasks.caching.content_task import content_task
from tasks.hub_answers import HubAwayError, HubUnreachableError
from tasks.progress import prefect_progress
from tasks.registry.client import RegistryUnreachableError
from tasks.sources.locate import Location, Preflight, fetch, locate_all
from tasks.sources.location_keys import is_of_location, location_key


def _network_failed(_task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Retry what another moment can mend; a mistake or a refusal is shown at once. Without any
    connection there is one more try: a name that was taken for a repository is soon told."""
    try:
        state.result()
    except HubAwayError:
        return run.run_count < 2
    except (HubUnreachableError, RegistryUnreachableError):
        return True
    except Exception:
        return False
    return False


_RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [2, 10, 30],
    "retry_condition_fn": _network_failed,
}


@task(name="preflight", cache_policy=NO_CACHE, persist_result=False, **_RETRIES)
def preflight_task(
    references: Sequence[str],
    home: Path,
    beside: Path | None = None,
    tracking_uri: str = "",
    tolerance: Tolerance = STRICT,
) -> Preflight:
    """`locate_all` as a step. Never cached: branches and aliases move."""
    return locate_all(references, Home(home), beside, tracking_uri, tolerance=tolerance)


def _fits(source: SourceCheckpoint, /, location: Location, **_others: object) -> bool:
    return is_of_location(source, location)


@content_task("resolve", version=1, key=location_key, fits=_fits, **_RETRIES)
def resolve_task(location: Location, digest_memo: Path) -> SourceCheckpoint:
    """`fetch` as a cached step; the flow checks a hit against the disk."""
    memo = DigestMemo(digest_memo)
    return fetch(location, memo, prefect_progress(f"resolve {location.reference}"))
