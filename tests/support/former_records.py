"""What commit 5eaacac stored of the steps of one small pipeline, as records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import Task

from tasks.caching.content_task import ContentKey
from tasks.caching.stored_records import parse_record
from tasks.decide import decide_task
from tasks.evaluate import evaluate_task
from tasks.merge import merge_task
from tasks.profile import profile_task
from tasks.resolve import resolve_task
from tasks.verify import verify_task

FORMER = Path(__file__).parent.parent / "security" / "former_home"
STEPS: dict[str, Task[Any, Any]] = {
    task.name: task
    for task in (
        decide_task,
        evaluate_task,
        merge_task,
        profile_task,
        resolve_task,
        verify_task,
    )
}


def policy(task: Task[Any, Any]) -> ContentKey:
    assert isinstance(task.cache_policy, ContentKey)
    return task.cache_policy


def under(key: str, step: str) -> Task[Any, Any]:
    """A step that is called under a key of former times, whatever its arguments would give."""
    task = STEPS[step]
    return task.with_options(cache_policy=replace(policy(task), key=lambda: key))


def former(step: str) -> dict[str, Any]:
    """The records that commit 5eaacac stored of a step, by key."""
    found = {}
    for path in sorted((FORMER / "cache").glob(f"{step}-v*")):
        record = parse_record(path.read_bytes(), path.name, policy(STEPS[step]).kind)
        found[path.name.split("-")[2]] = record
    assert found
    return found
