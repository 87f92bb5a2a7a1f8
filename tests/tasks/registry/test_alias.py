"""Who may move the alias: pins and hand-made moves are respected, losers told, kills mended."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from flows.terminal.outside_faults import outside_fault
from merge_core.errors import OutputError, StepError
from merge_core.homes.home import Home
from tasks.registry.alias import AliasKeeper, Chosen
from tasks.registry.alias_lock import alias_lock
from tasks.registry.alias_state import NOTE_TAG, PIN_TAG, AliasState, alias_state
from tasks.registry.chosen_by_hand import promote, roll_back, unpin
from tasks.registry.client import RegistryUnreachableError, open_registry
from tasks.registry.history import find_histories
from tasks.registry.history_report import report_history
from tasks.registry.memory import canonical
from tasks.registry.register import register_merge
from tests.support.registrations import variant, zoo_merge
from tests.support.registry_contents import Registered, champion_holder, client


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def better(tiny_zoo: Any, merged: Path, after_promotion: str, tmp_path: Path) -> dict[str, Any]:
    """What registers another merge that is better, in a registry where version 2 serves."""
    return zoo_merge(tiny_zoo, variant(merged, tmp_path / "better", "better"), after_promotion)


def state(registry: str) -> AliasState:
    with open_registry(registry) as opened:
        return alias_state(opened, "zoo")


def events(home: Home, registry: str) -> list[tuple[str, str | None, str | None]]:
    """What the one sound history of the model says."""
    report = report_history(home, registry, "zoo")
    assert report.holds, report.chains
    [chain] = report.chains
    return [(line.event, line.version, line.how) for line in chain.lines]


def test_a_registry_of_before_begins_as_it_is_found(
    better: dict[str, Any], after_promotion: str, home: Home
) -> None:
    api = client(after_promotion)
    for tag in (NOTE_TAG, PIN_TAG):
        if tag in api.get_registered_model("zoo").tags:
            api.delete_registered_model_tag("zoo", tag)
    result = register_merge(**better, home=home)
    assert champion_holder(after_promotion) == result.candidate.version == "3"
    assert events(home, after_promotion) == [
        ("found", "2", None),
        ("intended", "3", "run"),
        ("moved", "3", "run"),
    ]


@pytest.mark.slow
def test_registering_again_writes_no_line_twice(
    better: dict[str, Any], after_promotion: str, home: Home
) -> None:
    register_merge(**better, home=home)
    register_merge(**better, home=home)
    said = events(home, after_promotion)
    register_merge(**better, home=home)
    assert events(home, after_promotion) == said
    assert said[-1] == ("kept", "3", "run")


def test_runs_leave_a_pinned_version_and_say_who_pinned_it_why_and_since_when(
    better: dict[str, Any], promoted: Registered, after_promotion: str, home: Home
) -> None:
    done = promote(home, after_promotion, "zoo", "1", why="tried by hand", by="Ada")
    assert (done.previous, champion_holder(after_promotion)) == ("2", "1")
    result = register_merge(**better, home=home)
    assert champion_holder(after_promotion) == "1"
    assert result.champion.version == "1"
    assert result.candidate.version == "3", "it is registered all the same"
    said = str(result.champion_stays)
    assert (
        f"pinned by Ada, as typed, at {done.pin.at} with `mergeflow promote`: tried by hand" in said
    )
    assert "`mergeflow unpin zoo`" in said
    released = unpin(home, after_promotion, "zoo")
    assert released.pin == done.pin
    assert register_merge(**better, home=home).champion_stays is None
    assert champion_holder(after_promotion) == "3"
    assert [event for event, _, _ in events(home, after_promotion)] == [
        *("found", "intended", "moved"),
        "kept",
        "unpinned",
        *("intended", "moved"),
    ]


@pytest.mark.slow
def test_a_fall_back_leaves_a_pinned_version_too(
    tiny_zoo: Any, merged: Path, after_promotion: str, home: Home, tmp_path: Path
) -> None:
    promote(home, after_promotion, "zoo", "2", why="it serves well")
    worse = zoo_merge(
        tiny_zoo, variant(merged, tmp_path / "w", "worse"), after_promotion, promote=False
    )
    result = register_merge(**worse, fall_back_to="base", home=home)
    assert champion_holder(after_promotion) == "2"
    assert "it serves well" in str(result.champion_stays)


def test_a_move_in_mlflows_pages_is_respected_and_told(
    better: dict[str, Any], after_promotion: str, home: Home
) -> None:
    register_merge(**better, home=home)
    client(after_promotion).set_registered_model_alias("zoo", "champion", "1")
    result = register_merge(**better, home=home)
    assert champion_holder(after_promotion) == "1"
    assert "outside of mergeflow" in str(result.champion_stays)
    assert ("found", "1", None) in events(home, after_promotion)
    unpin(home, after_promotion, "zoo")
    register_merge(**better, home=home)
    assert champion_holder(after_promotion) == "3"


@pytest.mark.slow
def test_an_alias_that_somebody_removed_is_given_again(
    better: dict[str, Any], after_promotion: str, home: Home
) -> None:
    promote(home, after_promotion, "zoo", "2", why="x")
    client(after_promotion).delete_registered_model_alias("zoo", "champion")
    register_merge(**better, home=home)
    assert champion_holder(after_promotion) == "3"
    assert state(after_promotion).pin is None


def test_a_run_that_decided_beside_another_champion_is_told(
    better: dict[str, Any], after_promotion: str, home: Home
) -> None:
    with pytest.raises(
        StepError, match="version 1 was to have it, and version 2 has it now"
    ) as lost:
        register_merge(**better, home=home, champion_seen="1")
    assert "the same command again decides anew" in str(lost.value)
    assert champion_holder(after_promotion) == "2"
    address = canonical(home, after_promotion)
    [history] = find_histories(home, address, "zoo", state(after_promotion).tags)
    last = history.lines[-1]
    assert (last.event, last.version, last.candidate) == ("not_moved", "2", "3")
    assert history.all_problems(state(after_promotion).tags) == []
    assert register_merge(**better, home=home, champion_seen="2").champion.version == "3"
    assert register_merge(**better, home=home, champion_seen="2").champion.version == "3"


def test_of_two_moves_at_once_one_is_made_and_the_other_is_told(
    after_promotion: str, home: Home
) -> None:
    outcomes: list[str] = []
    start = threading.Barrier(2)

    def move(to: str) -> None:
        with open_registry(after_promotion) as registry:
            keeper = AliasKeeper(registry, "zoo", home)
            seen = keeper.settle().holder
            start.wait()
            try:
                keeper.move(to, Chosen(how="run"), seen=seen)
                outcomes.append("moved")
            except StepError as error:
                outcomes.append(error.what)

    api = client(after_promotion)
    api.delete_registered_model_alias("zoo", "champion")
    threads = [threading.Thread(target=move, args=(to,)) for to in ("1", "2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("moved") == 1
    assert any("somebody else moved the alias" in said for said in outcomes)
    assert [event for event, _, _ in events(home, after_promotion)].count("moved") == 1


@pytest.mark.slow
def test_a_client_that_moves_it_at_the_last_moment_is_noticed(
    after_promotion: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    real = mlflow.MlflowClient.set_registered_model_alias

    def overtaken(self: Any, name: str, alias: str, version: str) -> None:
        real(self, name, alias, version)
        real(self, name, alias, "2")

    monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_alias", overtaken)
    with pytest.raises(StepError, match="somebody else moved the alias"):
        promote(home, after_promotion, "zoo", "1", why="x")


WRITES = ("set_registered_model_tag", "set_registered_model_alias", "set_tag")


@pytest.mark.slow
@pytest.mark.parametrize("survives", [True, False])
def test_a_move_that_is_killed_after_each_of_its_writes_is_completed(
    better: dict[str, Any],
    after_promotion: str,
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    survives: bool,
) -> None:
    """Also by a home that has no history of it: the registry's own tags are enough to know."""
    import mlflow

    register_merge(
        **better | {"decision": better["decision"].model_copy(update={"promote": False})}
    )
    died_at: set[tuple[str, int]] = set()
    counts: dict[str, int] = {}

    def dying(name: str) -> Any:
        write = getattr(mlflow.MlflowClient, name)

        def once(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = write(self, *args, **kwargs)
            counts[name] = counts.get(name, 0) + 1
            if len(died_at) < 12 and (name, counts[name]) not in died_at:
                died_at.add((name, counts[name]))
                raise KeyboardInterrupt
            return result

        return once

    for name in WRITES:
        monkeypatch.setattr(mlflow.MlflowClient, name, dying(name))
    finisher = home if survives else Home(home.path.parent / "another")
    for _ in range(30):
        try:
            register_merge(**better, home=home if len(died_at) % 2 else finisher)
            break
        except KeyboardInterrupt:
            assert not state(after_promotion).moved_elsewhere
    monkeypatch.undo()
    result = register_merge(**better, home=finisher)
    assert result.champion_stays is None
    assert champion_holder(after_promotion) == result.candidate.version
    for each in {home.path, finisher.path}:
        report = report_history(Home(each), after_promotion, "zoo")
        assert report.holds, report.chains
    assert state(after_promotion).note is not None
    assert json.loads(state(after_promotion).tags[NOTE_TAG]).get("moving_to") is None


@pytest.mark.slow
def test_another_home_s_move_is_told_as_such(
    better: dict[str, Any], after_promotion: str, home: Home, tmp_path: Path
) -> None:
    other = Home(tmp_path / "other")
    promote(home, after_promotion, "zoo", "2", why="mine")
    promote(other, after_promotion, "zoo", "1", why="theirs", by="Bo")
    assert "theirs" in str(register_merge(**better, home=home).champion_stays)
    assert ("found", "1", "another home") in events(home, after_promotion)
    notes = report_history(home, after_promotion, "zoo").notes
    assert any("is another home's" in note for note in notes)


@pytest.mark.slow
def test_a_broken_history_stops_no_run_and_is_told_from_then_on(
    better: dict[str, Any], after_promotion: str, home: Home
) -> None:
    promote(home, after_promotion, "zoo", "1", why="x")
    unpin(home, after_promotion, "zoo")
    address = canonical(home, after_promotion)
    [broken] = find_histories(home, address, "zoo", state(after_promotion).tags)
    broken.path.write_bytes(b"\n".join(broken.path.read_bytes().splitlines()[:2]) + b"\n")
    assert register_merge(**better, home=home).champion.version == "3"
    report = report_history(home, after_promotion, "zoo")
    assert not report.holds
    assert ["are missing" in str(chain.problems) for chain in report.chains].count(True) == 1
    fresh = next(chain for chain in report.chains if not chain.problems)
    assert f"the history {broken.chain}: its last" in str(fresh.lines[0].why)


def test_a_lock_that_somebody_holds_is_waited_for_and_then_told(home: Home) -> None:
    with (
        alias_lock(home),
        pytest.raises(RegistryUnreachableError, match="another command of this home"),
        alias_lock(home, wait=0.1),
    ):
        pass
    with alias_lock(home, wait=0.1):
        pass


def test_a_home_on_a_file_system_without_locks_is_told(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(_descriptor: int, _kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as without:
        without.setattr(fcntl, "flock", no_locks)
        with pytest.raises(OSError, match="No locks") as refused, alias_lock(home):
            pass
    fault = outside_fault(refused.value)
    assert fault is not None
    assert fault.where == str(home.history / "alias.lock")
    assert "that file system has no locks" in str(fault.mend)
    with alias_lock(home):  # on another disk
        pass


def test_a_history_that_cannot_be_written_moves_nothing(after_promotion: str, home: Home) -> None:
    home.path.mkdir()
    (home.path / "history").write_text("in its place")
    with pytest.raises(OutputError) as refused:
        promote(home, after_promotion, "zoo", "1", why="x")
    assert "see that you may write there" in str(refused.value)
    assert champion_holder(after_promotion) == "2"


@pytest.mark.slow
def test_rolling_back_goes_one_champion_back_each_time(
    better: dict[str, Any], after_promotion: str, home: Home
) -> None:
    register_merge(**better, home=home)
    for expected in ("2", "1"):
        if expected == "1":
            _first_champion(after_promotion)
        done = roll_back(home, after_promotion, "zoo", why="the canary failed")
        assert (done.version, champion_holder(after_promotion)) == (expected, expected)
        assert done.pin.how == "rollback"


def _first_champion(registry: str) -> None:
    """Let the run of version 2 say that version 1 served before: this home saw nothing of it."""
    version = client(registry).get_model_version("zoo", "2")
    client(registry).set_tag(version.tags["mergeflow.run_id"], "mergeflow.previous_champion", "1")
