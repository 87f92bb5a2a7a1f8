"""What tests share: a private home, a tiny zoo trained once, one Prefect server for the session."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

os.environ.update(
    {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MPLBACKEND": "Agg",
    }
)
# The list of homes that are believed: the developer's own is neither read nor written.
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="mergeflow-tests-config-")
atexit.register(shutil.rmtree, os.environ["XDG_CONFIG_HOME"], ignore_errors=True)
for _name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "HF_TOKEN", "MERGEFLOW_ZOO"):
    os.environ.pop(_name, None)
if not torch.cuda.is_available():  # then the GPU's kernels are interpreted; before triton's import
    os.environ["TRITON_INTERPRET"] = "1"

from flows.model_zoo import Zoo, build_zoo  # noqa: E402
from flows.stack.prefect_session import PrefectSession, prefect_session  # noqa: E402
from merge_core.homes.home import Home  # noqa: E402

pytest_plugins = ("tests.support.registry_fixtures",)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A data directory of the test's own; no test can touch the user's."""
    monkeypatch.setenv("MERGEFLOW_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


@pytest.fixture(scope="session")
def tiny_zoo(request: pytest.FixtureRequest) -> Zoo:
    """Real trained models, small enough for tests; kept between sessions."""
    return build_zoo(Path(request.config.cache.mkdir("zoo")) / "tiny", scale="tiny")


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Where the session's Prefect server keeps its database."""
    return Home(tmp_path_factory.mktemp("prefect"))


@pytest.fixture(scope="session")
def prefect(prefect_home: Home) -> Iterator[PrefectSession]:
    """A real Prefect server for every flow of the session."""
    with prefect_session(prefect_home) as session:
        session.ready()
        yield session
