"""The history of a model's alias: a chain of lines, of which none is changed or cut unseen."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from merge_core.homes.home import Home
from tasks.registry.history import (
    HEAD_TAG,
    History,
    find_histories,
    history_to_write,
    read_history,
)

ADDRESS = "embedded"


def written(home: Home, *versions: str, how: str = "run") -> tuple[History, dict[str, str]]:
    """A history in which the alias went from version to version, and the tags of the model."""
    history = history_to_write(home, ADDRESS, "zoo", {})
    facts: dict[str, Any] = {"registry": ADDRESS, "model": "zoo"}
    history.append("found", version=versions[0], **facts)
    for version in versions[1:]:
        begun = history.append("intended", version=version, how=how, **facts)
        history.append("moved", version=version, how=how, completes=begun.number, **facts)
    return history, {HEAD_TAG + history.chain: str(history.head)}


def test_each_line_follows_the_one_before_and_the_file_is_private(tmp_path: Path) -> None:
    history, tags = written(Home(tmp_path), "1", "2", "3")
    again = read_history(history.path, history.chain)
    assert again.lines == history.lines
    assert again.all_problems(tags) == []
    assert [line.number for line in again.lines] == [1, 2, 3, 4, 5]
    assert stat.S_IMODE(history.path.stat().st_mode) == 0o600
    assert (again.holder(), again.holders()) == ("3", ["1", "2", "3"])


def lines_of(history: History) -> list[bytes]:
    return history.path.read_bytes().splitlines(keepends=True)


TAMPERINGS = {
    "a changed word": lambda lines: [lines[0].replace(b"found", b"moved"), *lines[1:]],
    "a line taken out": lambda lines: [lines[0], *lines[2:]],
    "two lines in another order": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    "a tail that was cut": lambda lines: lines[:-2],
    "all lines cut": lambda lines: [],
    "another last line": lambda lines: [*lines[:-1], lines[-1].replace(b'"3"', b'"2"')],
    "no JSON": lambda lines: [*lines[:2], b"{oh}\n", *lines[3:]],
}


@pytest.mark.parametrize("kind", TAMPERINGS)
def test_a_history_that_somebody_changed_is_told_and_not_continued(
    tmp_path: Path, kind: str
) -> None:
    home = Home(tmp_path)
    history, tags = written(home, "1", "2", "3")
    history.path.write_bytes(b"".join(TAMPERINGS[kind](lines_of(history))))
    [found] = find_histories(home, ADDRESS, "zoo", tags)
    assert found.all_problems(tags)
    fresh = history_to_write(home, ADDRESS, "zoo", tags)
    assert fresh.chain != history.chain
    assert fresh.follows[0].startswith(history.chain)


def test_a_file_in_its_place_that_is_a_link_is_not_believed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    history, tags = written(home, "1")
    elsewhere = history.path.rename(tmp_path / "elsewhere")
    history.path.symlink_to(elsewhere)
    [found] = find_histories(home, ADDRESS, "zoo", tags)
    assert "it is a link" in found.all_problems(tags)[0]


def test_lines_that_were_written_after_the_head_are_no_fault(tmp_path: Path) -> None:
    home = Home(tmp_path)
    history, tags = written(home, "1", "2")
    history.append("kept", registry=ADDRESS, model="zoo", version="2")
    assert read_history(history.path, history.chain).all_problems(tags) == []


def test_a_head_that_the_registry_lost_ends_a_chain(tmp_path: Path) -> None:
    home = Home(tmp_path)
    history, _ = written(home, "1", "2")
    [found] = find_histories(home, ADDRESS, "zoo", {})
    assert found.all_problems({}) == ["the registry holds no head of it"]
    assert history_to_write(home, ADDRESS, "zoo", {}).chain != history.chain


def test_half_a_line_of_a_killed_writer_counts_as_none(tmp_path: Path) -> None:
    home = Home(tmp_path)
    history, tags = written(home, "1", "2")
    with history.path.open("ab") as file:
        file.write(b'{"number":4,"be')
    [found] = find_histories(home, ADDRESS, "zoo", tags)
    assert found.torn
    assert found.all_problems(tags) == []
    found.append("kept", registry=ADDRESS, model="zoo", version="2")
    again = read_history(history.path, history.chain)
    assert (again.problems, again.torn, len(again.lines)) == ([], False, 4)


def test_a_move_that_was_not_ended_is_known(tmp_path: Path) -> None:
    history, _ = written(Home(tmp_path), "1", "2")
    assert history.open_intention() is None
    begun = history.append("intended", registry=ADDRESS, model="zoo", version="3")
    assert read_history(history.path, history.chain).open_intention() == begun


def test_going_back_takes_what_came_after_off_the_champions(tmp_path: Path) -> None:
    history, _ = written(Home(tmp_path), "1", "2", "3")
    history.append("moved", registry=ADDRESS, model="zoo", version="2", how="rollback")
    assert history.holders() == ["1", "2"]
    history.append("moved", registry=ADDRESS, model="zoo", version="4", how="run")
    assert history.holders() == ["1", "2", "4"]


def test_models_and_registries_have_histories_of_their_own(tmp_path: Path) -> None:
    home = Home(tmp_path)
    _, tags = written(home, "1", "2")
    assert find_histories(home, ADDRESS, "zoo-2", {}) == []
    assert find_histories(home, "http://elsewhere", "zoo", {}) == []
    moved = find_histories(home, "http://elsewhere", "zoo", tags)
    assert len(moved) == 1, "the registry's own tag leads to it, at whatever address"
    renamed = find_histories(home, ADDRESS, "menagerie", tags)
    assert len(renamed) == 1, "and whatever the model was called"
