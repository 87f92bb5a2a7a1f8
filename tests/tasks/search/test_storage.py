"""Optuna's database: looked at where nothing can be written, and quiet."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from merge_core.errors import StepError
from merge_core.homes.home import Home
from tasks.search.sampling import Study, kept_searches
from tasks.search.space import Space
from tasks.search.storage import database, quiet
from tasks.search.trial import Result

SPACE = Space.model_validate({"knobs": {"a": {"from": 0.0, "to": 1.0}}})
NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users may enter, which those of pytest are not."""
    made = Path(tempfile.mkdtemp(prefix="mergeflow-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def by_a_user_without_privileges(work: Callable[[], bool]) -> bool:
    """What a child says that may not write where its rights do not say so."""
    child = os.fork()
    if child == 0:  # pragma: no cover
        status = 2
        try:
            if os.getuid() == 0:
                os.setuid(NOBODY)
            status = 0 if work() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_searches_are_shown_of_a_home_that_is_read_only(place: Path) -> None:
    home = Home(place / "home#1")
    study = Study(home, "s", "d" * 64, {}, space=SPACE, sampler="random", seed=0)
    asked = study.next(1)
    assert asked is not None
    trial = study.tell(asked, Result(outcome="whole", recipe="r", objective=0.5))
    if os.getuid() == 0:
        for each in (home.path, *home.path.iterdir()):
            os.chown(each, NOBODY, NOBODY)
    for file in home.path.iterdir():
        file.chmod(0o400)
    home.path.chmod(0o500)
    before = database(home).read_bytes()

    def shown() -> bool:
        [kept] = kept_searches(home)
        return kept.trials == [trial]

    try:
        assert by_a_user_without_privileges(shown)
        assert {file.name for file in home.path.iterdir()} == {"search.db", "search.db.lock"}
        assert database(home).read_bytes() == before
    finally:
        home.path.chmod(0o700)


def test_what_optuna_warns_of_is_not_heard_and_other_warnings_are_afterwards() -> None:
    heard: list[str] = []
    go_on = threading.Event()

    def inner() -> None:
        with quiet():
            go_on.wait(5)
            warnings.warn("of optuna's", stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *rest: heard.append(str(message))
        other = threading.Thread(target=inner)
        with quiet():
            other.start()
            warnings.warn("of optuna's", stacklevel=1)
        go_on.set()
        other.join()
        warnings.warn("ours", stacklevel=1)
    assert heard == ["ours"]


def test_a_damaged_database_is_moved_out_of_the_home(tmp_path: Path) -> None:
    home = Home(tmp_path)
    study = Study(home, "s", "d" * 64, {}, space=SPACE, sampler="random", seed=0)
    asked = study.next(1)
    assert asked is not None
    whole = database(home).read_bytes()
    for damaged in (b"no database at all" * 100, whole[:60_000]):
        database(home).write_bytes(damaged)
        with pytest.raises(StepError, match="SQLite says") as error:
            kept_searches(home)
        assert error.value.where == str(database(home))
        assert "move it out of this home" in str(error.value.mend)
    with pytest.raises(StepError, match="SQLite says"):
        study.tell(asked, Result(outcome="whole", recipe="r", objective=0.5))
    with pytest.raises(StepError, match="SQLite says"):
        Study(home, "s", "d" * 64, {}, space=SPACE, sampler="random", seed=0)
    database(home).rename(tmp_path / "damaged")
    assert kept_searches(home) == []


def test_a_database_of_another_optuna_is_told_as_one(tmp_path: Path) -> None:
    home = Home(tmp_path)
    Study(home, "s", "d" * 64, {}, space=SPACE, sampler="random", seed=0)
    with contextlib.closing(sqlite3.connect(database(home))) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'of tomorrow'")
    with pytest.raises(StepError, match="another version of Optuna made these tables") as error:
        kept_searches(home)
    assert error.value.where == str(database(home))
    assert "or a newer one" in str(error.value.mend)
