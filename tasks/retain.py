"""The step that removes older averages: `tasks.store.retention.retain`, as a Prefect task."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.registry.client import RegistryUnreachableError
from tasks.retries import only_on
from tasks.store.retention import retain

retain_task = task(
    name="retain",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=[5, 30],
    retry_condition_fn=only_on(RegistryUnreachableError),
)(retain)
"""`retain` as a step: never cached, safe to repeat."""
