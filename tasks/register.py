"""The registration step: `tasks.registry.register.register_merge`, as a Prefect task."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.registry.client import RegistryUnreachableError
from tasks.registry.register import register_merge
from tasks.retries import only_on

register_task = task(
    name="register",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=[5, 30],
    retry_condition_fn=only_on(RegistryUnreachableError),
)(register_merge)
"""The pipeline's last step: never cached, safe to repeat, retried when the server is away."""
