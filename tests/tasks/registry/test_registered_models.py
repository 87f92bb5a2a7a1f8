"""What is registered by reference loads and generates text, or says why it cannot."""

from __future__ import annotations

import ast
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tasks.lineage.trace import lineage
from tasks.registry import loader as registry_loader
from tasks.registry.register import register_merge
from tests.support.registrations import empty_registry, source, variant, zoo_merge
from tests.support.registry_contents import (
    Registered,
    artifacts_of,
    everything,
    free_port,
)


@pytest.fixture(autouse=True, scope="module")
def starting_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """A real MLflow server on a free port of the loopback interface; call it to wait for it."""
    directory = tmp_path_factory.mktemp("server")
    database = empty_registry(directory, tmp_path_factory.getbasetemp() / "template.db")
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--backend-store-uri", database]
    command += ["--artifacts-destination", str(directory / "artifacts")]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=os.environ | quiet, stdout=output, stderr=output, start_new_session=True
        )

    def wait() -> str:
        deadline = time.monotonic() + 120
        while not answers(address):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        return address

    yield wait
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_champion_loads_and_generates_text_without_a_copy_of_the_weights(
    promoted: Registered, merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", promoted.registry)
    pipeline = mlflow.transformers.load_model("models:/zoo@champion")
    [answer] = pipeline("def add(", max_new_tokens=4, do_sample=False)
    model = mlflow.pyfunc.load_model("models:/zoo@champion", model_config={"verify": "digests"})
    loader = type(model._model_impl).__module__
    continuations = model.predict(["def add(", "The"], params={"max_new_tokens": 4})
    assert Path(pipeline.model.config._name_or_path) == merged
    assert answer["generated_text"] == "def add(" + continuations[0]
    assert len(continuations) == 2
    assert loader.startswith("mergeflow_loader_"), "the loader came along with the model"
    stored = [path for path in artifacts_of(promoted.registry).rglob("*") if path.is_file()]
    weights = {file.sha256 for file in source(merged).files if file.name.endswith(".safetensors")}
    assert sum(path.stat().st_size for path in stored) < 1_000_000
    assert not {hashlib.sha256(path.read_bytes()).hexdigest() for path in stored} & weights


def test_the_loader_that_travels_with_a_model_needs_nothing_of_mergeflow() -> None:
    tree = ast.parse(Path(registry_loader.__file__).read_text())

    imported = {
        name.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }

    assert not {name for name in imported if name.startswith(("tasks", "merge_core", "flows"))}


@pytest.mark.parametrize(
    ("damage", "verify", "message"),
    [
        ("remove directory", "none", "the directory does not exist on this machine"),
        ("remove file", "sizes", "the file model.safetensors is missing"),
        ("cut file", "sizes", "model.safetensors has 100 bytes"),
        ("flip a byte", "digests", "the content of model.safetensors has changed"),
    ],
)
def test_a_checkpoint_that_is_not_what_was_registered_is_refused_with_the_reason(
    tiny_zoo: Any, tmp_path: Path, damage: str, verify: str, message: str
) -> None:
    place = variant(tiny_zoo.base, tmp_path / "object", "damaged")
    record = tmp_path / "checkpoint.json"
    record.write_text(source(place).model_dump_json())
    weights = place / "model.safetensors"
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    if damage == "remove directory":
        place.rename(tmp_path / "elsewhere")
    elif damage == "remove file":
        weights.unlink()
    elif damage == "cut file":
        weights.write_bytes(content[:100])
    else:
        content[-1] ^= 1
        weights.write_bytes(content)

    with pytest.raises(registry_loader.CheckpointUnavailableError, match=message):
        registry_loader._load_pyfunc(str(record), {"verify": verify})


@pytest.mark.slow
def test_a_real_server_gets_the_same_records_and_serves_the_champion(
    tiny_zoo: Any,
    merged: Path,
    starting_server: Callable[[], str],
    promoted: Registered,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import mlflow

    server = starting_server()
    arguments = zoo_merge(tiny_zoo, merged, server)
    first = register_merge(**arguments)
    assert register_merge(**arguments) == first
    assert capfd.readouterr() == ("", "")

    assert everything(server) == promoted.contents
    assert set(lineage("models:/zoo@champion", server).digests()) == {
        arguments["manifest"].digest,
        *(item.digest for item in arguments["manifest"].inputs),
    }
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    pipeline = mlflow.transformers.load_model("models:/zoo@champion")
    [answer] = pipeline("def add(", max_new_tokens=4, do_sample=False)
    assert answer["generated_text"].startswith("def add(")


def answers(address: str) -> bool:
    try:
        return requests.get(address + "/health", timeout=1).ok
    except requests.RequestException:
        return False
