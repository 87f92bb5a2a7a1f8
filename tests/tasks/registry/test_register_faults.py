"""Registering when something is wrong: crashes, races, bad addresses, secrets, a server away."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, StateType

from merge_core.errors import MergeflowError, StepError
from merge_core.homes.home import Home
from tasks.register import register_task
from tasks.registry.client import (
    RegistryUnreachableError,
    check_address,
    default_tracking_uri,
    ensure_experiment,
    open_registry,
    process_tracking_uri,
    strip_credentials,
)
from tasks.registry.models import _create
from tasks.registry.register import register_merge
from tests.support.registrations import source, zoo_merge
from tests.support.registry_contents import (
    Registered,
    champion_holder,
    client,
    everything,
    free_port,
)

WRITES = (
    "create_experiment",
    "create_logged_model",
    "log_model_artifacts",
    "set_logged_model_tags",
    "finalize_logged_model",
    "create_run",
    "log_batch",
    "log_inputs",
    "log_outputs",
    "log_artifacts",
    "set_terminated",
    "set_tag",
    "create_registered_model",
    "create_model_version",
    "set_registered_model_alias",
)
"""The methods of MLflow's client that write."""


@pytest.mark.slow
def test_a_registration_that_dies_after_each_of_its_writes_is_completed_without_duplicates(
    tiny_zoo: Any,
    merged: Path,
    registry: str,
    promoted: Registered,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mlflow

    died_after: set[tuple[str, ...]] = set()

    def dying(name: str) -> Any:
        write = getattr(mlflow.MlflowClient, name)

        def once(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = write(self, *args, **kwargs)
            words = [*args, *kwargs.values()]
            place = (name, *(str(w) for w in words if isinstance(w, str) and "/tmp" not in w))
            if place not in died_after:
                died_after.add(place)
                raise KeyboardInterrupt
            return result

        return once

    arguments = zoo_merge(tiny_zoo, merged, registry)
    for name in WRITES:
        monkeypatch.setattr(mlflow.MlflowClient, name, dying(name))
    for attempts in range(100):  # noqa: B007 - counted on purpose
        try:
            register_merge(**arguments)
            break
        except KeyboardInterrupt:
            moved = any(place[0] == "set_registered_model_alias" for place in died_after)
            assert moved == (champion_holder(registry) is not None), "promotion is the last write"

    assert {place[0] for place in died_after} == set(WRITES)
    assert attempts == len(died_after) > 40
    assert everything(registry) == promoted.contents


def test_a_record_that_failed_shows_as_failed_until_it_is_completed(
    tiny_zoo: Any, merged: Path, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    arguments = zoo_merge(tiny_zoo, merged, registry)

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise mlflow.MlflowException("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_outputs", refuse)
        with pytest.raises(StepError, match="MLflow refused: disk full"):
            register_merge(**arguments)
    api = client(registry)
    [run] = api.search_runs([api.get_experiment_by_name("merges").experiment_id])
    assert run.info.status == "FAILED"

    register_merge(**arguments)

    assert api.get_run(run.info.run_id).info.status == "FINISHED"


def test_registrations_at_the_same_time_make_nothing_twice(
    tiny_zoo: Any, merged: Path, registry: str, promoted: Registered
) -> None:
    arguments = zoo_merge(tiny_zoo, merged, registry)

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: register_merge(**arguments), range(3)))

    assert results[0] == results[1] == results[2]
    assert everything(registry) == promoted.contents


def test_the_slower_of_two_writers_discards_its_model(tiny_zoo: Any, promoted: Registered) -> None:
    with open_registry(promoted.registry, writing=True) as registry:
        model = _create(registry, promoted.result.experiment_id, source(tiny_zoo.base), None, None)

    assert model.model_id == promoted.result.base.logged_model_id
    assert everything(promoted.registry) == promoted.contents


def test_no_secret_of_the_environment_or_an_address_is_written_anywhere(
    tiny_zoo: Any, merged: Path, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "PREFECT_API_KEY"):
        monkeypatch.setenv(name, "s3cr3t-value")
    arguments = zoo_merge(tiny_zoo, merged, registry)
    arguments["artifacts"] = {"plots/similarity.txt": "a picture"}
    arguments["prefect_run"] = {"flow_run_id": "1", "url": "http://me:s3cr3t-value@host/runs/1"}

    register_merge(**arguments)

    root = Path(registry.removeprefix("sqlite:///")).parent
    for path in root.rglob("*"):
        assert not path.is_file() or b"s3cr3t-value" not in path.read_bytes(), path
    assert list(root.rglob("artifacts/plots/similarity.txt")), "extra artifacts are kept"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://localhost:5000", "http://localhost:5000"),
        ("https://me:pa@ss@host:8/mlflow", "https://host:8/mlflow"),
        ("sqlite:////data/ml flow/mlflow.db", "sqlite:////data/ml flow/mlflow.db"),
        ("postgresql://u:p@db/mlflow?sslmode=require", "postgresql://db/mlflow?sslmode=require"),
        ("https://host/?a=1&api_key=x&b=2", "https://host/?a=1&b=2"),
        ("https://host/?token=x", "https://host/"),
        ("databricks", "databricks"),
    ],
)
def test_credentials_are_taken_out_of_addresses(address: str, shown: str) -> None:
    assert strip_credentials(address) == shown


def test_the_first_use_makes_the_database_beside_its_artifacts_without_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "home")

    with open_registry(default_tracking_uri(home), writing=True) as registry:
        experiment = registry.client.get_experiment(ensure_experiment(registry, "merges"))

    assert experiment.artifact_location == (home.mlflow / "artifacts").as_uri()
    assert {path.name for path in home.mlflow.iterdir()} == {"mlflow.db", "mlflow.db.lock"}
    assert capfd.readouterr() == ("", "")


def test_a_first_use_that_was_killed_leaves_no_half_database(tmp_path: Path) -> None:
    (tmp_path / ".mlflow.db.new").write_bytes(b"half of a database")

    with open_registry(f"sqlite:///{tmp_path / 'mlflow.db'}", writing=True) as registry:
        assert ensure_experiment(registry, "merges")

    assert not (tmp_path / ".mlflow.db.new").exists()


def test_mlflow_tracking_uri_is_respected_and_left_as_it_was(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    assert default_tracking_uri(Home(tmp_path)) == "http://tracking.example:5000"

    with open_registry(registry) as open_one, process_tracking_uri(open_one):
        assert os.environ["MLFLOW_TRACKING_URI"] == registry

    assert os.environ["MLFLOW_TRACKING_URI"] == "http://tracking.example:5000"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tracking_uri": "mlruns"}, "not an address MLflow can register models at"),
        ({"tracking_uri": "sqlite:///mlflow.db"}, "depends on where the command is run"),
        ({"model_name": "zoo/good"}, "cannot be the name of a registered model"),
        ({"reports": ()}, "no evaluation of the base checkpoint"),
        ({"models": ()}, "an input that was not handed over"),
    ],
)
def test_what_cannot_be_registered_is_refused_before_anything_is_written(
    tiny_zoo: Any, merged: Path, registry: str, change: dict[str, Any], message: str
) -> None:
    before = Path(registry.removeprefix("sqlite:///")).read_bytes()

    with pytest.raises(MergeflowError, match=message):
        register_merge(**zoo_merge(tiny_zoo, merged, registry) | change)

    assert Path(registry.removeprefix("sqlite:///")).read_bytes() == before


def test_a_damaged_database_is_reported_at_once(
    tiny_zoo: Any, merged: Path, tmp_path: Path
) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database, but long enough to be taken for one" * 9)

    with pytest.raises(StepError, match="damaged"):
        register_merge(**zoo_merge(tiny_zoo, merged, f"sqlite:///{tmp_path / 'mlflow.db'}"))


def test_a_locked_database_is_worth_another_try(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RegistryUnreachableError, match="locked by another program"):
            check_address(f"sqlite:///{database}")
    check_address(f"sqlite:///{database}")


def test_what_a_killed_writer_left_half_done_is_undone(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    code = (
        "import os, signal, sqlite3, sys\n"
        "file = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "file.execute('PRAGMA cache_size = 5')\n"
        "file.execute('CREATE TABLE t (x)')\n"
        "file.execute('BEGIN')\n"
        "for _ in range(2000): file.execute('INSERT INTO t VALUES (?)', ['x' * 500])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(database)], check=False)
    assert (tmp_path / "mlflow.db-journal").stat().st_size > 0, "it was killed half-way"
    check_address(f"sqlite:///{database}")
    assert not (tmp_path / "mlflow.db-journal").exists()


def test_importing_the_step_does_not_import_mlflow() -> None:
    code = (
        "import sys, tasks.register, tasks.lineage.trace\n"
        "sys.exit(any(name in sys.modules for name in ('mlflow', 'torch', 'transformers')))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_prefect_task_is_never_cached_and_retries_only_a_server_that_is_away() -> None:
    def state(error: Exception) -> State[Any]:
        return State(type=StateType.FAILED, data=error)

    assert register_task.fn is register_merge
    assert register_task.cache_policy == NO_CACHE
    assert register_task.retries == 2
    retry: Any = register_task.retry_condition_fn
    assert retry(register_task, None, state(RegistryUnreachableError("away")))
    assert not retry(register_task, None, state(StepError("refused")))


def test_a_server_that_is_away_is_reported_within_seconds_and_without_its_password(
    tiny_zoo: Any, merged: Path
) -> None:
    address = f"http://me:hidden@127.0.0.1:{free_port()}"
    started = time.monotonic()

    with pytest.raises(RegistryUnreachableError, match="does not answer") as raised:
        register_merge(**zoo_merge(tiny_zoo, merged, address))

    assert time.monotonic() - started < 5
    assert "hidden" not in str(raised.value)
