"""What a run locks of its merge, and a word where a reference leads to another checkpoint now."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from flows.settings.pipeline import Pipeline
from merge_core.homes.home import Home
from merge_core.recipes.measurements import measurements
from merge_core.records import SourceCheckpoint
from merge_core.runtime.machine import machine_name
from merge_core.runtime.threads import default_threads
from merge_core.text.plain import plain_log
from tasks.calibration.samples import data_digest, data_file
from tasks.evaluation.suite import Suite, suite_content
from tasks.lineage.last_inputs import inputs_of_last_run
from tasks.processes.model import resolved_device_kind
from tasks.registry.client import RegistryUnreachableError
from tasks.registry.lock import Lock, LockedCalibration, LockedSource
from tasks.units import read_size, timestamp

_log = plain_log("mergeflow")

_ADDRESSES = {"tracking_uri": True}
"""Keys with names of servers. They are no part of what was merged."""


def lock_of(
    pipeline: Pipeline,
    sources: Sequence[LockedSource],
    calibration: Mapping[str, SourceCheckpoint],
    suite: Suite,
    beside: Path | None,
    started: datetime,
) -> Lock:
    """The lock of a run's merge, before it ended.

    Args:
        sources: all that were resolved; a soup may use fewer.
        calibration: what was measured, by reference.
        started: when the run began.
    """
    recipe, how = pipeline.recipe, pipeline.execution
    used, wanted = set(recipe.references()), measurements(recipe)
    data = {name: data_file(wanted[name].calibration, beside).absolute() for name in calibration}
    return Lock(
        sources=tuple(each for each in sources if each.reference in used),
        calibration=tuple(
            LockedCalibration(
                reference=name,
                digest=measured.digest,
                data=str(data[name]),
                sha256=data_digest(data[name]),
            )
            for name, measured in calibration.items()
        ),
        shard_bytes=read_size(how.shard_size),
        device=resolved_device_kind(how.device),
        threads=how.threads or default_threads(),
        pipeline=pipeline.model_dump(
            mode="json",
            by_alias=True,
            exclude={
                "promote": True,
                "register_as": _ADDRESSES,
                "execution": {"scale_out": {"dask"}},
            },
        ),
        beside=str(beside.absolute()) if beside else None,
        suite=suite_content(suite),
        started=timestamp(started),
        ended="",
        by=f"{_user()}@{machine_name()}" if pipeline.register_as.note_user else None,
    )


def _user() -> str:
    """The user of this process, by the system's word and not the environment's."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def warn_of_changes(
    pipeline: Pipeline, home: Home, sources: Mapping[str, SourceCheckpoint]
) -> None:
    """Say which references lead to another checkpoint than in the pipeline's last run."""
    name = pipeline.register_as.model
    if name is None:
        return
    uri = pipeline.register_as.address(home)
    before: dict[str, str] = {}
    with contextlib.suppress(RegistryUnreachableError):  # told before; the register step waits
        before = inputs_of_last_run(uri, name, pipeline.name)
    for reference, source in sources.items():
        if before.get(reference, source.digest) != source.digest:
            _log.warning(
                "warning: %s is another checkpoint than in the last run of this pipeline: %s now,"
                " %s then",
                reference,
                source.short,
                before[reference][:12],
            )
