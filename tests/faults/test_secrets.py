"""Secrets are planted wherever a user may have them, and must be found nowhere afterwards: not in
what is printed, not in any file of the home (logs, caches, the databases of Prefect and MLflow as
bytes), not in a checkpoint or its model card. Runs that fail are searched like those that succeed.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from flows.cli import program
from flows.model_zoo import Zoo
from flows.stack.prefect_session import PrefectSession
from merge_core.errors import MergeflowError
from merge_core.homes.home import Home

MARK = "canary7f3a91c2"
"""In every secret. Only letters and digits: quoting for an address leaves it as it is."""
NOBODY = f"127.0.0.1:9/{'x' * 3}"
"""An address where nobody listens."""
VARIABLES = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "DATABRICKS_TOKEN",
    "GITHUB_TOKEN",
    "OPENAI_API_KEY",
    "WANDB_API_KEY",
    "SOMETHING_OF_THE_USERS_OWN",
)


def with_secret(scheme: str, host: str = NOBODY) -> str:
    """An address with a user and a password in it."""
    return f"{scheme}://user{MARK}:password{MARK}@{host}"


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Secrets in the environment, and in the git repository that the commands run in."""
    for number, name in enumerate(VARIABLES):
        monkeypatch.setenv(name, f"hf_{number}{MARK}")
    place = tmp_path / "project"
    place.mkdir()
    subprocess.run(["git", "init", "-q", place], check=True)
    subprocess.run(
        ["git", "-C", place, "remote", "add", "origin", with_secret("https", "example.com/x.git")],
        check=True,
    )
    monkeypatch.chdir(place)


def found_in(root: Path) -> list[str]:
    """Files below a directory that hold a secret, as it is or in base64, or in their names."""
    found = []
    for path in root.rglob("*"):
        if ".git" in path.parts:  # where it was planted
            continue
        content = path.read_bytes() if path.is_file() else b""
        if MARK in str(path) or any(form in content for form in _FORMS):
            found.append(str(path.relative_to(root)))
    return found


def _forms() -> list[bytes]:
    """The mark, and the middle of its base64 at each of the three places it can begin at."""
    encoded = [base64.b64encode(bytes(shift) + MARK.encode())[4:-4] for shift in range(3)]
    return [MARK.encode(), *encoded]


_FORMS = _forms()


def run_and_search(
    arguments: list[str], root: Path, capfd: pytest.CaptureFixture[str], code: int
) -> str:
    """Run a command that ends with a code; what it printed, which holds no secret like all else."""
    ended = program.run(arguments)
    captured = capfd.readouterr()
    said = captured.out + captured.err
    assert ended == code, said
    assert MARK not in said
    assert found_in(root) == []
    return " ".join(said.split())


def recipe_with(models: Path, reference: str) -> Path:
    """A recipe file, outside of what is searched, with one reference in it."""
    recipe = yaml.safe_load((models / "ties.yaml").read_text())
    recipe["models"][1]["model"] = reference
    path = models / "changed.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    for number, text in enumerate((MARK, f"user:{MARK}", f"us:{MARK}", f"use:{MARK}")):
        encoded = base64.b64encode(text.encode()) if number else text.encode()
        (tmp_path / f"{number}.db").write_bytes(b"\0\xff" + encoded + b"\0")
    assert sorted(found_in(tmp_path)) == ["0.db", "1.db", "2.db", "3.db"]


def test_a_merge_writes_no_secret(
    models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_and_search(["merge", str(models / "linear.yaml"), "out", "--json"], tmp_path, capfd, 0)
    assert (tmp_path / "project" / "out" / "README.md").is_file()


def test_a_reference_with_a_password_is_refused_without_repeating_it(
    models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = recipe_with(models, with_secret("https", "huggingface.co/org/model"))
    said = run_and_search(["merge", str(path), "out"], tmp_path, capfd, 2)
    assert "huggingface.co/org/model" in said


def test_a_hub_that_does_not_answer_is_told_without_its_password(
    models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", with_secret("http"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    path = recipe_with(models, "org/model")
    said = run_and_search(["merge", str(path), "out"], tmp_path, capfd, 1)
    assert "does not answer" in said


@pytest.mark.parametrize("scheme", ["http", "sqlite"])
def test_a_registry_that_does_not_answer_is_told_without_its_password(
    scheme: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["lineage", "models:/zoo@champion", "--tracking-uri", with_secret(scheme)]
    ended = program.run(arguments)
    captured = capfd.readouterr()
    assert ended in (1, 2)
    assert "error:" in captured.err
    assert MARK not in captured.out + captured.err
    assert found_in(tmp_path) == []


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("https://host/x?token=hidden&v=2 is away", "https://host/x?token=...&v=2 is away"),
        ("https://host/x?v=2&X-Signature=hidden'", "https://host/x?v=2&X-Signature=...'"),
        (f"no model hf_{'aB3' * 12}", "no model hf_..."),
        ("no directory hf_transformers/hf_checkpoints", None),
        ("models:/zoo@champion has no tokens", None),
    ],
)
def test_messages_hide_secrets_and_nothing_else(said: str, shown: str | None) -> None:
    assert str(MergeflowError(said)) == (shown or said)
    assert str(MergeflowError("", where=said)) == f"{shown or said}: "


def test_a_bug_is_logged_without_passwords(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_model: str, uri: str) -> None:
        raise RuntimeError(f"no idea what to do with {uri}")

    monkeypatch.setattr("tasks.lineage.trace.lineage", broken)
    address = with_secret("http")
    monkeypatch.setattr("sys.argv", ["mergeflow", "lineage", "--tracking-uri", address])
    arguments = ["lineage", "models:/zoo@champion", "--tracking-uri", address]
    said = run_and_search(arguments, tmp_path, capfd, 1)
    assert "this is a bug in mergeflow" in said
    assert "no idea what to do with" in (tmp_path / "home/logs/crash.log").read_text()


@pytest.fixture
def bench(
    tiny_zoo: Zoo, tmp_path: Path, prefect: PrefectSession, home: Home
) -> Iterator[dict[str, Any]]:
    """A pipeline of the example models with one quick task."""
    suite = tmp_path / "suite"
    shutil.copytree(tiny_zoo.suite, suite)
    settings = yaml.safe_load((suite / "suite.yaml").read_text())
    settings["tasks"] = [task for task in settings["tasks"] if task["task"] == "zoo_code_bpb"]
    (suite / "suite.yaml").write_text(yaml.safe_dump(settings))
    models = [
        {"model": str(tiny_zoo.directory / name), "parameters": {"weight": 0.5}}
        for name in ("code-expert", "prose-expert")
    ]
    pipeline = {
        "name": "zoo",
        "recipe": {
            "merge_method": "task_arithmetic",
            "base_model": str(tiny_zoo.base),
            "models": models,
        },
        "evaluate": {"suite": str(suite), "experts": False},
        "promote": {"max_regression": 0.1, "min_gain": -0.1, "min_documents": 10},
        "register": {"model": "zoo"},
    }
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: str(home.cache)}):
        yield pipeline


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_pipeline_leaves_no_secret_anywhere(
    bench: dict[str, Any],
    prefect_home: Home,
    home: Home,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is promoted, one whose registry is away, one whose registry is named in its file,
    one whose checkpoints do not fit."""
    path = tmp_path / "project" / "pipeline.yaml"

    def run(code: int, **changes: Any) -> str:
        path.write_text(yaml.safe_dump(bench | changes))
        ended = program.run(["run", str(path)])
        captured = capfd.readouterr()
        said = captured.out + captured.err
        path.unlink()  # a user's own file; what is searched is what mergeflow wrote
        assert ended == code, said
        assert MARK not in said
        assert found_in(tmp_path) == []
        assert found_in(prefect_home.path) == []
        return " ".join(said.split())

    assert "Promoted" in run(0)
    assert (home.mlflow / "mlflow.db").stat().st_size > 0
    assert (prefect_home.prefect / "prefect.db").stat().st_size > 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", with_secret("http"))
    assert "does not answer" in run(1)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    said = run(2, register={"model": "zoo", "tracking_uri": with_secret("http")})
    assert "MLFLOW_TRACKING_PASSWORD" in said
    stranger = yaml.safe_load(yaml.safe_dump(bench["recipe"]))
    stranger["models"][0]["model"] = str(Path(stranger["base_model"]).parent / "other-run")
    assert "not a fine-tune" in run(2, recipe=stranger)
