"""`deployments/compose.yaml`, read strictly: published to nobody else, no secret, no loose end.

`make stack-test` also holds it against Compose's own schema and runs its commands without Docker.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.servers.serving import SERVER_VARIABLES
from flows.stack.config import StackConfig
from flows.stack.deployments import DIRECTORY

FILE = DIRECTORY / "compose.yaml"
TEXT = FILE.read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
KEYS = {
    *("image", "build", "command", "environment", "volumes", "working_dir"),
    *("ports", "healthcheck", "depends_on", "restart"),
}


def environment(service: str) -> dict[str, str]:
    return dict(SERVICES[service].get("environment", {}))


def test_the_pieces_are_those_of_the_issue() -> None:
    assert set(COMPOSE) == {"x-mergeflow", "services", "volumes"}
    pieces = {"postgres", "redis", "prefect", "prefect-services", "mlflow", "worker-1", "worker-2"}
    assert pieces <= set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_whole(name: str) -> None:
    service = SERVICES[name]
    assert set(service) <= KEYS
    assert re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?(-bookworm)?", service["image"])
    named = [volume.split(":")[0] for volume in service.get("volumes", []) if volume[0] != "$"]
    assert set(named) <= set(COMPOSE["volumes"])
    for other, wanted in service.get("depends_on", {}).items():
        condition = wanted["condition"]
        assert condition in ("service_healthy", "service_completed_successfully")
        assert ("healthcheck" in SERVICES[other]) == (condition == "service_healthy")


def test_the_first_pages_link_to_the_ports_that_are_published() -> None:
    for server in ("prefect", "mlflow"):
        said = environment(server)
        for other, variable in SERVER_VARIABLES.items():
            (port,) = SERVICES[other]["ports"]
            assert said[variable] == f"http://{port.rpartition(':')[0]}"


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_for_this_machine_alone(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)


@pytest.mark.parametrize("name", SERVICES)
def test_passwords_come_from_the_environment_and_must_be_set(name: str) -> None:
    for variable, value in environment(name).items():
        if re.search("PASSWORD$", variable):
            assert re.fullmatch(r"\$\{\w+:\?.+\}", value)
        for password in re.findall(r"://\w*:(.*)@", value):
            assert re.fullmatch(r"\$\{\w+:\?.+\}", password)
    command = str(SERVICES[name].get("command", ""))
    assert not re.search(r"(?<!\$)\$\{?\w*PASSWORD", command), (
        "compose would put it on a command line"
    )


def test_the_example_of_the_secrets_names_all_of_them_and_holds_none() -> None:
    lines = (DIRECTORY / "compose.env.example").read_text().splitlines()
    given = dict(line.split("=") for line in lines if line and not line.startswith("#"))
    assert set(given) == set(re.findall(r"(?<!\$)\$\{(\w+)", TEXT))
    assert set(given.values()) == {""}
    ignored = subprocess.run(
        ["git", "check-ignore", "deployments/.env"], cwd=FILE.parents[1], check=False
    )
    assert ignored.returncode == 0


def test_the_servers_have_the_settings_of_mergeflow_up() -> None:
    config = StackConfig(
        prefect_database="postgresql://h/a", mlflow_database="postgresql://h/b", redis="redis://h"
    )
    for service in ("prefect-migrate", "prefect", "prefect-services"):
        held = environment(service)
        assert set(config.prefect) <= set(held)
        modules = {k: v for k, v in config.prefect.items() if v.startswith("prefect_redis.")}
        assert modules.items() <= held.items()


def test_migrations_run_once_and_before_every_server() -> None:
    migrating = [name for name in SERVICES if "upgrade" in SERVICES[name].get("command", [])]
    assert migrating == ["prefect-migrate"]
    for name in ("prefect", "prefect-services"):
        assert environment(name)["PREFECT_SERVER_DATABASE_MIGRATE_ON_START"] == "false"
        assert "prefect-migrate" in SERVICES[name]["depends_on"]


def test_the_image_holds_what_its_commands_need() -> None:
    text = (DIRECTORY / "Dockerfile").read_text()
    root = DIRECTORY.parent
    copied = [name for line in re.findall("^COPY (.+)$", text, re.M) for name in line.split()[:-1]]
    assert all((root / name).exists() for name in copied)
    assert {
        "pyproject.toml",
        "constraints.txt",
        "mergeflow",
        "flows",
        "tasks",
        "merge_core",
    } <= set(copied)
    assert "[scale-out]" in text
    assert Path(COMPOSE["x-mergeflow"]["build"]["dockerfile"]) == Path("deployments/Dockerfile")
