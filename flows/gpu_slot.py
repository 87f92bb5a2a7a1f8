"""The one slot of this machine's GPU, held while a step computes on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prefect import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from merge_core.runtime.machine import machine_name
from tasks.processes.model import resolved_device_kind

_LEASE_SECONDS = 60.0
"""After this time the slot of a run that was killed is free again."""


@contextlib.contextmanager
def device_slot(device: str) -> Iterator[None]:
    """Hold the one slot of this machine's GPU while the block runs; nothing for the CPU.

    The limit is created when missing, with one slot; a person may raise it on the server.
    """
    if resolved_device_kind(device) != "cuda":
        yield
        return
    with concurrency(ensure_gpu_limit(), occupy=1, lease_duration=_LEASE_SECONDS):
        yield


def ensure_gpu_limit() -> str:
    """Name of the concurrency limit of this machine's GPU, created when missing."""
    name = f"gpu:{machine_name()}"
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            limit = GlobalConcurrencyLimitCreate(name=name, limit=1)
            with contextlib.suppress(ObjectAlreadyExists):  # another run was faster
                client.create_global_concurrency_limit(limit)
    return name
