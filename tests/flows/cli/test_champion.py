"""`mergeflow promote`, `rollback`, `unpin` and `history`, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.cli import program
from tests.support.edited_objects import flip, loosen
from tests.support.registrations import variant, zoo_merge
from tests.support.registry_contents import champion_holder, client


@pytest.fixture
def registry_of_a_home(
    after_promotion: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A registry in which version 2 serves, and a home that has not seen it yet."""
    monkeypatch.setenv("MERGEFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", after_promotion)
    return after_promotion


@pytest.mark.slow
def test_a_champion_is_chosen_taken_back_and_let_go(
    registry_of_a_home: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run(["history", "zoo"]) == 0
    assert "no history of it yet" in capsys.readouterr().out
    assert program.run(["promote", "zoo", "1", "--why", "tried by hand", "--by", "Ada"]) == 0
    said = capsys.readouterr().out
    assert "models:/zoo@champion is version 1 (it was version 2), pinned" in said
    assert "`mergeflow unpin zoo`" in said
    assert program.run(["rollback", "zoo", "--why", "it was worse", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["version"], done["previous"], done["pin"]["how"]) == ("2", "1", "rollback")
    assert champion_holder(registry_of_a_home) == "2"
    assert program.run(["unpin", "zoo"]) == 0
    assert "stays version 2 until a run moves it" in capsys.readouterr().out
    assert program.run(["history", "zoo"]) == 0
    table = capsys.readouterr().out
    for part in ("tried by hand (by Ada, as typed)", "rollback", "unpinned", "holds"):
        assert part in table


def test_a_history_that_does_not_hold_is_exit_code_4(
    registry_of_a_home: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert program.run(["promote", "zoo", "1", "--why", "x"]) == 0
    [file] = (tmp_path / "home" / "history").glob("*.jsonl")
    file.write_bytes(file.read_bytes().replace(b'"why":"x"', b'"why":"y"'))
    capsys.readouterr()
    assert program.run(["history", "zoo"]) == 4
    assert "is not the one that the registry remembers" in capsys.readouterr().out
    assert program.run(["history", "zoo", "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["holds"] is False


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["promote", "zoo", "9", "--why", "x"], "versions here: 1, 2"),
        (["promote", "zoo", "two", "--why", "x"], "versions here: 1, 2"),
        (["promote", "zou", "1", "--why", "x"], "did you mean 'zoo'"),
        (["promote", "zoo", "1", "--why", " "], "write it in a few words"),
        (["rollback", "zoo", "--why", "x"], "name the version with --to; versions here: 1"),
        (["unpin", "zoo"], "nothing is pinned here"),
        (["history", "zou"], "did you mean 'zoo'"),
    ],
)
def test_what_cannot_be_done_is_told(
    registry_of_a_home: str, capsys: pytest.CaptureFixture[str], command: list[str], says: str
) -> None:
    assert program.run(command) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "bug" not in said
    assert champion_holder(registry_of_a_home) == "2"


def test_what_is_not_what_was_registered_is_not_promoted_by_hand(
    registry_of_a_home: str,
    tiny_zoo: Any,
    merged: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tasks.registry.register import register_merge

    place = variant(merged, tmp_path / "place", "place")
    loosen(place)
    arguments = zoo_merge(tiny_zoo, place, registry_of_a_home, promote=False)
    version = register_merge(**arguments).candidate.version
    flip(place / "model.safetensors")
    assert program.run(["promote", "zoo", version, "--why", "x"]) == 2
    assert "model.safetensors has changed" in capsys.readouterr().err
    assert champion_holder(registry_of_a_home) == "2"
    api = client(registry_of_a_home)
    foreign = api.create_model_version("zoo", source="/elsewhere")
    assert program.run(["promote", "zoo", str(foreign.version), "--why", "x"]) == 1
    assert "mergeflow did not register this version" in capsys.readouterr().err
