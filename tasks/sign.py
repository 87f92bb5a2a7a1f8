"""The signing step: `tasks.audit.signing.sign_version`, as a Prefect task."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.audit.signing import sign_version
from tasks.registry.client import RegistryUnreachableError
from tasks.retries import only_on

sign_task = task(
    name="sign",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=[5, 30],
    retry_condition_fn=only_on(RegistryUnreachableError),
)(sign_version)
"""After the registration: never cached, safe to repeat. It is given a key's name, and no key."""
