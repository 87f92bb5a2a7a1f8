"""Mends of what runs around a merge: memory, processes, servers, a store, workers of a pool."""

from __future__ import annotations

import http.server
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from prefect import flow, get_client
from prefect.client.schemas.objects import State, StateType
from prefect.results import ResultRecordMetadata
from prefect.serializers import JSONSerializer
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.states import Cancelled

from flows.fanout.work_pool import WorkPool
from flows.run_step import UNSTORED, answer_of
from flows.stack.ports import HOST
from flows.stack.prefect_session import PrefectSession
from flows.stack.stack import Service
from merge_core.homes.home import Home
from tasks.loading.check import check_loading, raise_for_loading
from tasks.sources.locate import fetch_all
from tests.field.mends.situations import fine_tune, on_base, tensors_of
from tests.field.mends.test_calibration_mends import calibrated, measured, model
from tests.field.test_loading import edit, stacked
from tests.support import tiny_architectures as tiny
from tests.support.checkpoints import run_recipe, write_checkpoint
from tests.support.edited_objects import flip, loosen
from tests.support.followed_mends import Advice, RefusedError, Shell
from tests.support.mends import ROOT
from tests.support.merge_store import Store
from tests.support.scale_out_cases import run_merge, write_zoo
from tests.support.tiny_llama import described

pytest_plugins = ["tests.support.gc_fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WITH_LITTLE_MEMORY = """
import resource, sys
from flows.cli.program import run
assert run(["plan", "recipe.yaml"]) == 0
if sys.argv[1] == "little":
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20),) * 2)
sys.exit(run(["merge", "recipe.yaml", "out"]))
"""


def test_memory_that_is_used_up(here: Path, advice: Advice) -> None:
    on_base(here)

    def merge(memory: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", WITH_LITTLE_MEMORY, memory],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RefusedError(done.stderr)
        return done.stdout

    advice.refused(merge, "little")
    advice.helped(merge, "enough")


def test_a_process_that_is_killed_for_memory(here: Path, advice: Advice) -> None:
    """As the system does: SIGKILL, from outside."""
    ended = threading.Event()

    def kill() -> None:
        me = psutil.Process()
        while not ended.is_set():
            for child in me.children():
                if "tasks.calibration.process" in " ".join(child.cmdline()):
                    child.send_signal(signal.SIGKILL)
                    return
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        advice.refused(calibrated, here, batch_size=4)
    finally:
        ended.set()
        killer.join()
    advice.helped(calibrated, here, batch_size=1)


def test_a_layer_that_sees_several_samples_as_one(here: Path, advice: Advice) -> None:
    directory = model(here, tiny.qwen_moe)
    advice.refused(measured, directory, "gram", batch_size=2)
    advice.helped(measured, directory, "gram", batch_size=1)


def test_weights_of_another_kind_than_the_base_s(here: Path, advice: Advice) -> None:
    extra = "model.layers.0.mlp.extra.weight"
    base = tensors_of(0)
    write_checkpoint(here / "one", base | {extra: torch.arange(4)})
    write_checkpoint(here / "two", fine_tune(base, 1) | {extra: torch.ones(4, dtype=torch.bool)})
    sources = {name: described(here / name) for name in ("one", "two")}
    models = {"models": [{"model": "one"}, {"model": "two"}]}
    recipe: dict[str, Any] = {"merge_method": "linear", **models}
    advice.refused(run_recipe, recipe, sources, here / "out")
    advice.helped(run_recipe, recipe | {"exclude": [extra]}, sources, here / "out")


def test_a_config_that_does_not_describe_the_weights(here: Path, advice: Advice) -> None:
    out, donor, origins = stacked("Gemma2", here)
    edit(out, num_hidden_layers=5)

    def loads(checkpoint: Path, origins: Any) -> str:
        report = check_loading(
            checkpoint,
            donor,
            origins=origins,
            sources={"./donor": donor},
            scratch=here / "scratch",
        )
        raise_for_loading(report, "merged")
        return report.sentence

    advice.refused(loads, out, origins)
    whole = {"merge_method": "passthrough", "models": [{"model": "./donor"}]}
    run_recipe(whole, {"./donor": described(donor)}, here / "whole")
    advice.helped(loads, here / "whole", None)


def test_an_object_of_the_store_that_was_edited(store: Store, home: Home, advice: Advice) -> None:
    made = store.merged(1)
    place = Path(made.path)
    loosen(place)
    flip(place / "model.safetensors")
    advice.refused(fetch_all, [made.path], home)
    assert store.merged(1) == made
    advice.helped(fetch_all, [made.path], home)


@contextmanager
def answering_nonsense() -> Iterator[str]:
    """The address of a web server that is no MLflow, and has an answer for everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            is_health = self.path.startswith("/health")
            self.wfile.write(b"OK" if is_health else b'{"status": "ok"}')

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_address_that_is_not_mlflow_s(
    store: Store, their_registry: str, mergeflow: Shell, advice: Advice
) -> None:
    made = store.merged(1)
    gc = ("gc", "--yes", "--keep", "0", "--older-than", "0m", "--tracking-uri")
    with answering_nonsense() as address:
        advice.refused(mergeflow, *gc, address)
    assert store.objects() == {made.object_id}
    advice.helped(mergeflow, *gc, their_registry)


def test_a_service_that_ends_by_itself(here: Path, advice: Advice) -> None:
    taken = socket.create_server((HOST, 0))
    port = str(taken.getsockname()[1])
    command = [sys.executable, "-m", "http.server", port, "--bind", HOST]
    service = Service("a server", command, dict(os.environ), here / "server.log")
    service.health = f"http://{HOST}:{port}/"
    reading, writing = os.pipe()

    def serve() -> str:
        service.start(reading)
        deadline = time.monotonic() + 60
        while service.exit_status is None and not service.is_healthy():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        if service.exit_status is not None:
            raise service.death()
        return "healthy"

    try:
        advice.refused(serve)
        assert "Address already in use" in (here / "server.log").read_text()
        taken.close()
        advice.helped(serve)
    finally:
        taken.close()
        if service.process:
            service.process.kill()
            service.process.wait()
        os.close(reading)
        os.close(writing)


@pytest.fixture
def session(prefect: PrefectSession, home: Home) -> Iterator[PrefectSession]:
    """Prefect, with step results in the test's own home."""
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: str(home.cache)}):
        yield prefect


def test_a_run_that_the_server_says_was_done(session: PrefectSession, advice: Advice) -> None:
    @flow(**UNSTORED)
    def running() -> int:
        return 7

    # What Prefect makes of it is shown by tests/security/test_what_is_kept.py.
    done: State[Any] = State(
        type=StateType.COMPLETED,
        data=ResultRecordMetadata(serializer=JSONSerializer(), storage_key="/somewhere"),
    )
    advice.refused(answer_of, done)
    assert advice.helped(running) == 7


def test_a_pool_that_is_not_there_and_a_worker_that_is_not(
    session: PrefectSession, here: Path, advice: Advice
) -> None:
    pool = "mends"
    zoo = write_zoo(here / "zoo")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PREFECT_API_URL": session.api_url,
        "PREFECT_HOME": str(here / "worker"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    prefect = [sys.executable, "-m", "prefect"]

    def merge() -> str:
        return str(run_merge(zoo, here / "out", WorkPool(pool)))

    said = advice.refused(merge)
    advised = re.search(r"prefect (work-pool create --type process \S+)", said)
    assert advised
    create = [*prefect, *advised[1].split()]
    subprocess.run(create, env=environment, check=True, capture_output=True)

    def cancel() -> None:
        with get_client(sync_client=True) as client:
            while not (runs := [r for r in client.read_flow_runs() if " group " in r.name]):
                time.sleep(0.5)
            client.set_flow_run_state(runs[0].id, Cancelled(), force=True)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    advice.refused(merge)
    canceller.join()
    worker = subprocess.Popen(
        [*prefect, "worker", "start", "--pool", pool],
        env=environment,
        cwd=here,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        advice.helped(merge)
    finally:
        for process in [*psutil.Process(worker.pid).children(recursive=True), worker]:
            process.kill()
        worker.wait()
