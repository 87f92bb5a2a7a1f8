"""The averaging flow beside a training run, on real servers: `mergeflow up`, its worker, its
deployment. Not part of `make test`: `make averaging`.
"""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from flows.model_zoo import Zoo
from merge_core.checkpoints.sources import describe_source
from merge_core.files.digests import DigestMemo
from tests.support.processes import wait_until
from tests.support.stack import RunningStack, ending
from tests.support.training_run import LEDGER, write_slowly

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

DEPLOYMENT = "average-checkpoints/average-checkpoints"
TICKS, NEW_AT = 20, (2, 6, 9, 13, 18)
"""The clock, and the ticks before which a new checkpoint is written."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, tiny_zoo: Zoo) -> Iterator[RunningStack]:
    """A stack with a suite of few documents beside it; nothing of it is left after the tests."""
    directory = tmp_path_factory.mktemp("averaging")
    shutil.copytree(tiny_zoo.suite, directory / "suite")
    suite = yaml.safe_load((directory / "suite" / "suite.yaml").read_text())
    suite["tasks"] = [task for task in suite["tasks"] if task["task"] == "zoo_prose_bpb"]
    suite["settings"] = suite.get("settings", {}) | {"limit": 12}
    (directory / "suite" / "suite.yaml").write_text(yaml.safe_dump(suite))
    stack = RunningStack(home=directory / "home", directory=directory).up()
    try:
        yield stack
    finally:
        stack.interrupt()
        for process in stack.processes():
            process.kill()


@pytest.fixture(scope="module")
def trained(tiny_zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The six checkpoints of a finished training."""
    run = tmp_path_factory.mktemp("trained") / "run"
    training = start_training(tiny_zoo, run, checkpoints=6, pause=0, writing=0)
    assert training.wait(300) == 0
    return sorted(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def start_training(zoo: Zoo, run: Path, **options: float) -> subprocess.Popen[bytes]:
    """A training run in a process of its own."""
    flags = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "tests.support.training_run", str(zoo.directory), str(run)]
    return subprocess.Popen([*command, *flags])


def averaging(name: str, run: Path, directory: Path, **training: Any) -> dict[str, Any]:
    """A configuration: the last three checkpoints, the champion to beat, a lenient rule."""
    return {
        "name": name,
        "training": {"run": str(run), **training},
        "choose": {"last": 3},
        "evaluate": {"suite": str(directory / "suite"), "experts": False},
        "promote": {
            "baseline": "champion",
            "max_regression": 0.2,
            "min_gain": -0.2,
            "min_documents": 5,
        },
        "register": {"model": name},
        "retention": {"keep": 2},
    }


def versions(stack: RunningStack, model: str) -> list[dict[str, Any]]:
    """Every version of a registered model, with its tags as a mapping."""
    found = stack.mlflow("/model-versions/search", filter=f"name='{model}'", max_results="200")
    for version in found.get("model_versions", []):
        version["tags"] = {tag["key"]: tag["value"] for tag in version.get("tags", [])}
    return list(found.get("model_versions", []))


def merges(stack: RunningStack, name: str) -> list[dict[str, str]]:
    """Tags of every merge that was recorded for a configuration; those of removed versions too."""
    experiment = stack.mlflow("/experiments/get-by-name", experiment_name="mergeflow")
    identifier = experiment["experiment"]["experiment_id"]
    body = {
        "experiment_ids": [identifier],
        "filter": f"tags.`mergeflow.kind` = 'merge' and tags.`mergeflow.pipeline` = '{name}'",
        "max_results": 200,
    }
    runs = stack.mlflow("/runs/search", body).get("runs", [])
    return [{tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in runs]


def inputs(tags: dict[str, str]) -> list[str]:
    """Digests of what a recorded merge was made of."""
    return [
        json.loads(value)["digest"]
        for key, value in tags.items()
        if key.startswith("mergeflow.input.")
    ]


def digests(run: Path) -> dict[str, str]:
    """Digest of every checkpoint of a run, each of them complete by now."""
    memo = DigestMemo(None)
    return {
        path.name: describe_source(path.name, path, memo).digest
        for path in run.glob("checkpoint-*")
    }


def test_twenty_ticks_with_five_new_checkpoints_are_five_merges_and_fifteen_nothing_new(
    stack: RunningStack, trained: list[Path]
) -> None:
    run = stack.directory / "clock"
    run.mkdir()
    write_slowly(trained[0], run / trained[0].name, 0)
    parameters = averaging("clock", run, stack.directory, marker="trainer_state.json")
    deployment = stack.prefect(f"/deployments/name/{DEPLOYMENT}")["id"]
    fresh = iter(trained[1:])
    told, idle = [], []
    for tick in range(1, TICKS + 1):
        if tick in NEW_AT:
            checkpoint = next(fresh)
            write_slowly(checkpoint, run / checkpoint.name, 0)
        scheduled = {"type": "SCHEDULED", "name": "Scheduled"}
        body = {"parameters": {"averaging": parameters}, "state": scheduled}
        created = stack.prefect(f"/deployments/{deployment}/create_flow_run", body)
        ended = stack.finish(created["id"], seconds=900)
        took = ended["total_run_time"]
        told.append(ending(ended))
        idle += [took] if told[-1] == "Nothing new" else []
        message = (ended["state"]["message"] or "")[:110]
        print(f"tick {tick:2}  {told[-1]:<11}{took:5.1f} s  {message}", flush=True)
    counted = Counter("merge" if name in ("Promoted", "Fell back") else name for name in told)
    assert counted == {"merge": 5, "Nothing new": 15}, told
    assert [tick for tick, name in enumerate(told, 1) if name != "Nothing new"] == list(NEW_AT)
    recorded = merges(stack, "clock")
    assert len(recorded) == 5
    known = digests(run)
    assert {digest for tags in recorded for digest in inputs(tags)} <= set(known.values())
    assert max(idle) < 60
    print(
        f"Nothing new takes {sorted(idle)[len(idle) // 2]:.1f} s (median), {max(idle):.1f} at most"
    )
    without_alias = [v for v in versions(stack, "clock") if v["tags"]["mergeflow.role"] == "merged"]
    assert len(without_alias) <= 3, "two are kept, and the champion"


def test_beside_a_training_run_averages_hold_complete_checkpoints_and_survive_a_killed_worker(
    stack: RunningStack, tiny_zoo: Zoo
) -> None:
    run = stack.directory / "training"
    training = start_training(tiny_zoo, run, checkpoints=10, pause=9, writing=5)
    wait_until(run.is_dir, 60)
    parameters = averaging("training", run, stack.directory, settle_seconds=4)
    deployment = stack.prefect(f"/deployments/name/{DEPLOYMENT}")
    schedule = {
        "schedule": {"interval": 15, "anchor_date": datetime.now(UTC).isoformat()},
        "active": True,
        "slug": "beside-training",
        "parameters": {"averaging": parameters},
    }
    path = f"/deployments/{deployment['id']}/schedules"
    [created] = stack.prefect(path, [schedule])
    try:
        assert wait_until(lambda: len(ends(stack)) >= 1, 240), "no run has averaged anything"
        killed = kill_worker(stack)
        assert wait_until(lambda: stack.state(killed[0])["type"] == "CRASHED", 120), "unnoticed"
        assert training.wait(300) == 0
        known = digests(run)
        newest = max(known, key=lambda name: int(name.split("-")[1]))
        assert wait_until(lambda: is_averaged(stack, known[newest]), 600), "it did not go on"
    finally:
        training.kill()
        stack.prefect(f"{path}/{created['id']}", method="DELETE")
    wait_until(lambda: not active(stack), 240)
    assert active(stack) == []
    recorded = merges(stack, "training")
    used = [digest for tags in recorded for digest in inputs(tags)]
    assert set(used) <= set(known.values()), "an average holds something that was half written"
    runs = flow_runs(stack)
    spans = sorted(span for each in runs if (span := lifetime(each, killed)) is not None)
    overlaps = [(a, b) for a, b in itertools.pairwise(spans) if b[0] < a[1]]
    assert not overlaps
    ledger = [json.loads(line) for line in (run / LEDGER).read_text().splitlines()]
    print(f"{len(ledger)} checkpoints written, {len(recorded)} averages of complete ones;", end=" ")
    print(f"runs: {dict(Counter(each['state']['name'] for each in runs))}")


def flow_runs(stack: RunningStack) -> list[dict[str, Any]]:
    """Every run of the schedule beside the training."""
    found: list[dict[str, Any]] = stack.prefect("/flow_runs/filter", {"limit": 200})
    return [each for each in found if each["parameters"]["averaging"]["name"] == "training"]


def ends(stack: RunningStack) -> list[dict[str, Any]]:
    """The runs that have made an average."""
    return [each for each in flow_runs(stack) if {"promoted", "fell-back"} & set(each["tags"])]


def active(stack: RunningStack) -> list[dict[str, Any]]:
    """The runs that are at work."""
    return [each for each in flow_runs(stack) if each["state"]["type"] in ("PENDING", "RUNNING")]


def is_averaged(stack: RunningStack, digest: str) -> bool:
    """Whether a checkpoint is in some recorded average."""
    return any(digest in inputs(tags) for tags in merges(stack, "training"))


def lifetime(run: dict[str, Any], killed: tuple[str, float]) -> tuple[float, float] | None:
    """When a run was at work, seconds since the epoch; the killed one until it was killed."""
    if run["start_time"] is None or run["state"]["name"] == "Cancelled":
        return None
    began, ended = run["start_time"], run["end_time"]
    if run["id"] == killed[0]:
        return moment(began), killed[1]
    return moment(began), moment(ended) if ended else time.time()


def moment(text: str) -> float:
    """A time as Prefect writes it, in seconds since the epoch."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def kill_worker(stack: RunningStack) -> tuple[str, float]:
    """Kill the worker, and the run that it is at, in the middle; which run, and when."""

    def is_running() -> bool:
        return any(each["state"]["type"] == "RUNNING" for each in active(stack))

    assert wait_until(is_running, 240)
    [run] = [each for each in active(stack) if each["state"]["type"] == "RUNNING"][:1]
    workers = [p for p in stack.processes() if "worker" in " ".join(p.cmdline())]
    doomed = {child for worker in workers for child in worker.children(recursive=True)}
    for process in {*workers, *doomed}:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    at = time.time()
    print(f"killed the worker and {len(doomed)} processes of run {run['name']}", flush=True)
    return run["id"], at
