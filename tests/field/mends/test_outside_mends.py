"""Mends of what the world outside does: files that cannot be written, servers that are away.

A link leads what is written to where the system refuses it; to put things right, the link goes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.stack.prefect_session import PrefectSession, prefect_session
from merge_core.homes.home import Home
from tests.field.mends.situations import Situation, on_base, situations
from tests.support.followed_mends import Advice, Later, Shell, Step

pytestmark = pytest.mark.slow  # `make field`

NOBODY = "http://127.0.0.1:9/api"
PLOT = ("profile", "recipe.yaml", "--plot", "plot.png")


def plotted_to(place: str) -> tuple[str, ...]:
    """The command that draws into this file."""
    return (*PLOT[:-1], place)


def a_disk_that_is_full(here: Path) -> Iterator[Step]:
    (here / "plot.png").symlink_to("/dev/full")
    yield PLOT
    (here / "plot.png").unlink()
    yield PLOT


def a_disk_that_fails(here: Path) -> Iterator[Step]:
    if os.geteuid():
        pytest.skip("only root gets so far as to write there")
    (here / "plot.png").symlink_to("/proc/version")
    yield PLOT
    (here / "plot.png").unlink()
    yield PLOT


def a_place_where_one_may_not_write(here: Path) -> Iterator[Step]:
    closed = here / "closed"
    if os.geteuid():
        closed.mkdir(mode=0o500)
    elif os.statvfs("/sys").f_flag & os.ST_RDONLY:
        pytest.skip("root may write everywhere, and there is no /sys here that refuses a file")
    else:
        closed.symlink_to("/sys")
    yield plotted_to("closed/plot.png")
    yield PLOT


def a_place_below_a_file(here: Path) -> Iterator[Step]:
    (here / "file").write_text("")
    yield plotted_to("file/plot.png")
    yield PLOT


def a_directory_in_place_of_a_file(here: Path) -> Iterator[Step]:
    yield plotted_to("a")
    yield PLOT


def a_directory_that_does_not_exist(here: Path) -> Iterator[Step]:
    yield plotted_to("plots/plot.png")
    (here / "plots").mkdir()
    yield plotted_to("plots/plot.png")


def a_name_that_is_too_long(here: Path) -> Iterator[Step]:
    yield plotted_to("p" * 300)
    yield PLOT


def a_server_that_is_none(here: Path) -> Iterator[Step]:
    yield (asked, "localhost:4200")
    yield Later("no Prefect server answers here", (asked, NOBODY))


def asked(address: str) -> str:
    """What a command does first: see whether the server of PREFECT_API_URL answers."""
    os.environ["PREFECT_API_URL"] = address
    try:
        with temporary_settings({PREFECT_API_URL: address, PREFECT_CLIENT_MAX_RETRIES: 0}):
            PrefectSession(address, None).ready()
    finally:
        del os.environ["PREFECT_API_URL"]
    return "answered"


@pytest.mark.slow
@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_outside(situation: Situation, here: Path, mergeflow: Shell, advice: Advice) -> None:
    on_base(here)
    advice.follow(mergeflow, situation(here))


def test_a_server_that_is_started(prefect: PrefectSession, advice: Advice) -> None:
    advice.refused(asked, NOBODY)
    advice.helped(asked, prefect.api_url)


@pytest.mark.slow
def test_a_server_that_does_not_start(
    here: Path, advice: Advice, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(here / "home")

    def started() -> str:
        with prefect_session(home) as session:
            session.ready()
        return "started"

    (home.path / "prefect").mkdir(parents=True, mode=0o700)
    (home.path / "prefect/prefect.db").mkdir()
    advice.refused(started)
    monkeypatch.setenv("PREFECT_API_URL", NOBODY)
    with temporary_settings({PREFECT_API_URL: NOBODY, PREFECT_CLIENT_MAX_RETRIES: 0}):
        advice.further("no Prefect server answers here", started)
