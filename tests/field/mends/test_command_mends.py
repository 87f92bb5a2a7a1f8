"""Mends of commands and of what they ask around: pipelines, ports, passwords, registries."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from flows.settings.method_forms import FORMS
from flows.stack.ports import listen
from merge_core.homes.home import Home
from tests.field.mends.situations import Situation, recipe, situations
from tests.support.followed_mends import Advice, RefusedError, Shell, Step
from tests.support.mends import ROOT

pytestmark = pytest.mark.slow  # `make field`


def home_of(here: Path) -> Home:
    """The test's home, made."""
    home = Home(here / "home")
    home.path.mkdir(mode=0o700, exist_ok=True)
    os.environ["MERGEFLOW_HOME"] = str(home.path)
    return home


def no_registry_is_known(here: Path) -> Iterator[Step]:
    home_of(here)
    yield ("gc",)
    yield ("gc", "--no-registry")


def a_note_of_registries_that_is_damaged(here: Path) -> Iterator[Step]:
    note = home_of(here).path / "registries.json"
    note.write_text('{"registries": [{"address"')
    note.chmod(0o600)
    yield ("gc", "--no-registry")
    note.write_text('{"registries": []}')
    yield ("gc", "--no-registry")


def a_note_of_registries_that_cannot_be_written(here: Path) -> Iterator[Step]:
    from tasks.registry.memory import begin_notes

    home = home_of(here)
    (home.path / "registries.lock").mkdir()
    yield (begin_notes, home)
    (home.path / "registries.lock").rmdir()
    yield (begin_notes, home)


def a_registry_that_nobody_knows(here: Path) -> Iterator[Step]:
    from tasks.registry.memory import begin_notes, forget_registry

    home = home_of(here)
    begin_notes(home)
    note = home.path / "registries.json"
    note.write_text('{"registries": [{"address": "http://mlflow.example:5000"}]}')
    yield (forget_registry, home, "http://mlflow.exampel:5000")
    yield (forget_registry, home, "http://mlflow.example:5000")


def a_pipeline_with_a_recipe_elsewhere(here: Path) -> Iterator[Step]:
    from flows.settings.pipeline import load_pipeline

    (here / "pipelines").mkdir()
    file = here / "pipelines/p.yaml"
    content = {"name": "p", "recipe": "recipe.yaml", "evaluate": {"suite": "starter"}}
    file.write_text(yaml.safe_dump(content))
    yield (load_pipeline, file)
    file.write_text(yaml.safe_dump(content | {"recipe": "../recipe.yaml"}))
    yield (load_pipeline, file)


def a_form_that_names_no_file(here: Path) -> Iterator[Step]:
    from flows.settings.merge_form import MergeForm

    home = home_of(here)
    yield (MergeForm(recipe="nowhere.yaml").read, home)
    yield (MergeForm(recipe=(here / "recipe.yaml").read_text()).read, home)


def a_form_of_layers_that_go_backwards(here: Path) -> Iterator[Step]:
    home = home_of(here)

    def read(first: int, last: int) -> str:
        runs = [{"model": "./a", "first": 0, "last": 1}, {"model": "./b"}]
        runs[1] |= {"first": first, "last": last}
        form = FORMS["stack-layers"].model_validate({"name": "n", "runs": runs})
        return str(form.read(home))

    yield (read, 3, 2)
    yield (read, 2, 3)


def databases(home: Home, password: str) -> None:
    """A stack.yaml that names databases."""
    addresses = {
        f"{name}_database": f"postgresql://{name}:{password}@localhost/{name}"
        for name in ("prefect", "mlflow")
    }
    home.stack_file.write_text(yaml.safe_dump(addresses))


def a_password_that_others_can_read(here: Path) -> Iterator[Step]:
    from flows.stack.config import read_stack_config

    home = home_of(here)
    databases(home, "hunter2")
    home.stack_file.chmod(0o644)
    yield (shown, read_stack_config, home)
    home.stack_file.chmod(0o600)
    yield (shown, read_stack_config, home)


def shown(read: object, home: Home) -> str:
    """What is told of a configuration."""
    return read(home).shown  # type: ignore[operator,no-any-return]


def a_variable_that_is_not_set(here: Path) -> Iterator[Step]:
    from flows.stack.config import read_stack_config

    home = home_of(here)
    databases(home, "${MENDS_PASSWORD}")
    yield (shown, read_stack_config, home)
    os.environ["MENDS_PASSWORD"] = "hunter2"
    yield (shown, read_stack_config, home)


def a_variable_that_workers_lack(here: Path) -> Iterator[Step]:
    from tasks.search.postgresql import read_search_database

    home = home_of(here)
    keys = ("prefect_database", "mlflow_database", "search_database")
    text = "".join(f"{key}: postgresql://me:${{MENDS_PASSWORD}}@h/{key}\n" for key in keys)
    home.stack_file.write_text(text)
    yield (read_search_database, home)
    home.stack_file.write_text(text.replace(":${MENDS_PASSWORD}@h/search", "@h/search"))
    yield (read_search_database, home)


def databases_whose_servers_are_down(here: Path) -> Iterator[Step]:
    from flows.stack.prefect_session import prefect_session
    from tasks.registry.client import default_tracking_uri

    home = home_of(here)
    os.environ["MENDS_PASSWORD"] = "hunter2"
    databases(home, "${MENDS_PASSWORD}")

    def both() -> str:
        with prefect_session(home) as session:
            return f"{session} {default_tracking_uri(home)}"

    yield (both,)
    os.environ["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    yield (both,)


def models_whose_server_is_down(here: Path) -> Iterator[Step]:
    from tasks.registry.client import default_tracking_uri

    home = home_of(here)
    os.environ["MENDS_PASSWORD"] = "hunter2"
    databases(home, "${MENDS_PASSWORD}")
    yield (default_tracking_uri, home)
    os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    yield (default_tracking_uri, home)


def a_stack_that_is_up(here: Path) -> Iterator[Step]:
    from flows.stack.stack import only_one

    home = home_of(here)

    def hold() -> str:
        with only_one(home):
            return "held"

    with only_one(home):
        yield (hold,)
    yield (hold,)


def a_port_that_is_taken(here: Path) -> Iterator[Step]:
    taken, _ = listen(None, 4299, "--prefect-port")
    with taken:
        number = taken.getsockname()[1]
        yield (opened, number)
    yield (opened, number)


def opened(number: int) -> str:
    """Listen on a port, and let go of it."""
    listening, said = listen(number, 4299, "--prefect-port")
    listening.close()
    return str(said)


def a_server_without_its_login(here: Path) -> Iterator[Step]:
    from flows.servers.serving import required

    yield (required, "MENDS_LOGIN")
    os.environ["MENDS_LOGIN"] = "me:hunter2"
    yield (required, "MENDS_LOGIN")


def a_schedule_without_a_server(here: Path) -> Iterator[Step]:
    from flows.stack.schedules import switch_schedule

    home = home_of(here)

    def off() -> str:
        try:
            return switch_schedule(home, "merge/nightly", active=False)
        except RefusedError:
            raise
        except Exception as error:  # Prefect's own, of a server that does not answer
            if "no Prefect server" in str(error):
                raise
            return type(error).__name__

    yield (off,)
    os.environ["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    yield (off,)


def a_login_that_is_none(here: Path) -> Iterator[Step]:
    from tasks.servers.login import home_login, password_file

    home = home_of(here)
    password_file(home).write_text("NAME:\n")
    yield (home_login, home)
    password_file(home).unlink()
    yield (home_login, home)


def a_login_that_cannot_be_kept(here: Path) -> Iterator[Step]:
    from tasks.servers.login import home_login, password_file

    home = home_of(here)
    password_file(home).mkdir()
    yield (home_login, home)
    yield (home_login, Home(here / "another"))


def approval_without_a_page(here: Path) -> Iterator[Step]:
    from flows.cli.session import check_approval
    from flows.stack.prefect_session import PrefectSession
    from tasks.promotion.rule import PromotionRule

    alone = PrefectSession("http://127.0.0.1:9/api", object())  # type: ignore[arg-type]
    rule = PromotionRule(approve_within="1h")
    yield (check_approval, rule, alone, here / "p.yaml")
    yield (check_approval, PromotionRule(), alone, here / "p.yaml")


def a_package_that_hides_ours(here: Path) -> Iterator[Step]:
    (here / "foreign/tasks").mkdir(parents=True)
    (here / "foreign/tasks/__init__.py").write_text("")

    def methods(path: str) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-c", "from mergeflow.command import main; main()", "methods"],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RefusedError(done.stderr)
        return done.stdout

    yield (methods, f"{here / 'foreign'}:{ROOT}")
    yield (methods, str(ROOT))


CHANGED = ("MERGEFLOW_HOME", "MENDS_PASSWORD", "MENDS_LOGIN", "PREFECT_API_URL")


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_command(
    situation: Situation,
    here: Path,
    mergeflow: Shell,
    advice: Advice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (*CHANGED, "MLFLOW_TRACKING_URI"):  # what a situation sets is taken back
        monkeypatch.setenv(name, "")
        os.environ.pop(name)
    recipe(here)
    advice.follow(mergeflow, situation(here))
