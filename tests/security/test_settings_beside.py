"""Files of a cloned repository that Prefect reads as its settings: a setting can run code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.environment.settings_beside import refuse_settings_beside
from flows.stack.prefect_session import prefect_session
from merge_core.errors import HomeError
from merge_core.homes.home import Home

LOGGING = """version: 1
formatters:
  hostile: {"()": subprocess.getoutput, cmd: "touch planted"}
"""
FILES = {
    ".env": "export PREFECT_LOGGING_SETTINGS_PATH='logging.yml'\n",
    "prefect.toml": "[logging]\nconfig_path = 'logging.yml'\n",
    "pyproject.toml": "[tool.prefect.logging]\nconfig_path = 'logging.yml'\n",
}


COMMANDS = [
    ["run", "pipeline.yaml"],
    ["up"],
    ["gc"],
    ["evaluate", "base", "english-small"],
    ["demo"],
]


@pytest.mark.parametrize(
    ("name", "command"),
    [(".env", command) for command in COMMANDS] + [(name, COMMANDS[0]) for name in FILES],
)
def test_a_file_that_came_with_a_clone_runs_no_command(
    name: str, command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "logging.yml").write_text(LOGGING)
    (tmp_path / "pipeline.yaml").write_text("name: x\n")
    (tmp_path / name).write_text(FILES[name])
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *command],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert not (tmp_path / "planted").exists()
    assert done.returncode == 2
    assert f"{name}: Prefect would take settings from this file" in done.stderr


def test_a_file_that_comes_between_is_noticed_by_the_session(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(FILES[".env"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HomeError), prefect_session(home):
        raise AssertionError("begun")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".env", "prefect_api_url=http://evil.example/api\n"),
        (".env", "A=1\n\ufeffB=2\nPREFECT_REDIS_MESSAGING_URL=x\n"),
        ("prefect.toml", "[client]\nx = 1\n"),
        ("prefect.toml", "= broken"),
    ],
)
def test_other_spellings_are_found_too(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HomeError):
        refuse_settings_beside()


def test_what_others_keep_in_these_files_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("HF_HOME=/big\nDATABASE_PASSWORD='a#b'\n# PREFECT_API_URL=x\n")
    (tmp_path / "prefect.toml").write_text("")
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\nline-length = 100\n")
    monkeypatch.chdir(tmp_path)
    refuse_settings_beside()
