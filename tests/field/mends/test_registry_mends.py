"""Mends of registrations and their lineage, at real MLflow databases."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from merge_core.homes.home import Home
from tasks.lineage.contains import versions_that_contain
from tasks.lineage.trace import lineage
from tasks.registry.chosen_by_hand import promote, roll_back, unpin
from tasks.registry.client import open_registry
from tasks.registry.register import register_merge
from tests.field.mends.situations import situations
from tests.support.followed_mends import Advice, RefusedError, Shell, Step
from tests.support.registrations import registration, variant, zoo_merge
from tests.support.registry_contents import Registered, client
from tests.support.registry_fixtures import (  # noqa: F401 - fixtures
    after_promotion,
    merged,
    promoted,
    quick_database,
    registry,
)

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class At:
    """What a situation starts from."""

    place: Path
    registry: str
    """The address of a database with one promoted merge, called `zoo`."""
    empty: str
    """The address of one without."""
    arguments: dict[str, Any]
    """What registers that merge again."""

    def register(self, **changes: Any) -> str:
        """Register, with changes."""
        return str(register_merge(**(self.arguments | {"tracking_uri": self.registry} | changes)))

    def serve(self, version: str) -> None:
        """Let a version have the alias, as if no move of ours had ever been noted."""
        api = client(self.registry)
        api.set_registered_model_alias("zoo", "champion", version)
        if "mergeflow.champion" in api.get_registered_model("zoo").tags:
            api.delete_registered_model_tag("zoo", "mergeflow.champion")

    @property
    def home(self) -> Home:
        """The home of the commands."""
        return Home(self.place / "home")

    def look(self, uri: str, address: str | None = None) -> str:
        """The lineage of a version."""
        return str(lineage(uri, address or self.registry).top)


def an_address_of_no_version(at: At) -> Iterator[Step]:
    yield (at.look, "zoo")
    yield (at.look, "models:/zoo@champion")


def a_name_of_no_model(at: At) -> Iterator[Step]:
    yield (at.look, "models:/zou@champion")
    yield (at.look, "models:/zoo@champion")


def no_model_at_all(at: At) -> Iterator[Step]:
    yield (at.look, "models:/zoo@champion", at.empty)
    at.register(tracking_uri=at.empty)
    yield (at.look, "models:/zoo@champion", at.empty)


def an_alias_that_nobody_has(at: At) -> Iterator[Step]:
    yield (at.look, "models:/zoo@challenger")
    yield (at.look, "models:/zoo@champion")


def a_champion_that_changed_meanwhile(at: At) -> Iterator[Step]:
    result = variant(Path(at.arguments["manifest"].path), at.place / "result", "again")
    base, *experts = [Path(each.path) for each in (at.arguments["base"], *at.arguments["models"])]
    arguments = registration(at.registry, base, experts, result)
    yield (partial(register_merge, **arguments, champion_seen="1"),)
    yield (partial(register_merge, **arguments, champion_seen="2"),)


def a_version_of_somebody_else(at: At) -> Iterator[Step]:
    version = client(at.registry).create_model_version("zoo", source="/elsewhere").version
    by_hand = partial(promote, at.home, at.registry, "zoo", why="x")
    yield (by_hand, version)
    yield (by_hand, "1")


def a_description_of_another_checkpoint(at: At) -> Iterator[Step]:
    result = variant(Path(at.arguments["manifest"].path), at.place / "result", "again")
    base, *experts = [Path(each.path) for each in (at.arguments["base"], *at.arguments["models"])]
    arguments = registration(at.registry, base, experts, result)
    done = register_merge(**arguments)
    model = client(at.registry).get_logged_model(done.candidate.logged_model_id)
    described = Path(unquote(model.artifact_location.removeprefix("file://")))
    (described / "checkpoint.json").write_text("{}")
    by_hand = partial(promote, at.home, at.registry, "zoo", done.candidate.version, why="x")
    yield (by_hand,)
    register_merge(**arguments)
    yield (by_hand,)


def nothing_to_unpin(at: At) -> Iterator[Step]:
    yield (unpin, at.home, at.registry, "zoo")
    promote(at.home, at.registry, "zoo", "2", why="it serves well")
    yield (unpin, at.home, at.registry, "zoo")


def no_champion_before(at: At) -> Iterator[Step]:
    back = partial(roll_back, at.home, at.registry, "zoo", why="x")
    yield (back,)
    yield (back, "1")


def a_choice_without_a_reason(at: At) -> Iterator[Step]:
    yield (partial(promote, at.home, at.registry, "zoo", "1", why=" "),)
    yield (partial(promote, at.home, at.registry, "zoo", "1", why="it is faster"),)


def an_audit_of_nothing(at: At) -> Iterator[Step]:
    yield ("audit", "--tracking-uri", at.empty)
    with open_registry(at.empty, writing=True):
        yield ("audit", "--all", "--tracking-uri", at.empty)


def two_forms_at_once(at: At) -> Iterator[Step]:
    command = ("lineage", "models:/zoo@champion", "--tracking-uri", at.registry)
    yield (*command, "--html", "--json")
    yield (*command, "--html")


def containing(at: At, wanted: str) -> str:
    """The versions that contain a checkpoint."""
    return str(versions_that_contain(wanted, at.registry).versions)


def a_digest_that_is_none(at: At) -> Iterator[Step]:
    yield (containing, at, "merged")
    yield (containing, at, "models:/zoo/2")


def a_digest_that_nobody_knows(at: At) -> Iterator[Step]:
    yield (containing, at, "0" * 64)
    yield (containing, at, at.arguments["manifest"].digest)


def digits_of_two_checkpoints(at: At) -> Iterator[Step]:
    api = client(at.registry)
    [experiment] = [e for e in api.search_experiments() if "mergeflow.experiment" in e.tags]
    for end in "01":
        tags = {"mergeflow.kind": "merge", "mergeflow.digest": "a" * 63 + end}
        api.create_run(experiment.experiment_id, tags=tags)
    yield (containing, at, "a" * 20)
    yield (containing, at, "a" * 63 + "1")


def a_version_that_is_not_there(at: At) -> Iterator[Step]:
    yield (at.look, "models:/zoo/7")
    yield (at.look, "models:/zoo/2")


def a_name_that_mlflow_does_not_take(at: At) -> Iterator[Step]:
    yield (partial(at.register, model_name="zoo/good"),)
    yield (partial(at.register, model_name="zoo-good"),)


def an_input_that_is_not_handed_over(at: At) -> Iterator[Step]:
    yield (partial(at.register, models=()),)
    yield (at.register,)


def a_report_of_a_stranger(at: At) -> Iterator[Step]:
    reports = at.arguments["reports"]
    strange = reports[0].model_copy(update={"checkpoint_digest": "f" * 64})
    yield (partial(at.register, reports=[*reports, strange]),)
    yield (partial(at.register, reports=reports),)


def a_report_that_is_missing(at: At) -> Iterator[Step]:
    yield (partial(at.register, reports=()),)
    yield (at.register,)


def an_experiment_that_was_deleted(at: At) -> Iterator[Step]:
    api = client(at.registry)
    experiment = api.get_experiment_by_name(at.arguments["experiment"])
    assert experiment is not None
    api.delete_experiment(experiment.experiment_id)
    yield (at.register,)
    api.restore_experiment(experiment.experiment_id)
    yield (at.register,)


def asked(at: At, name: str, *, writing: bool) -> str:
    with open_registry(at.registry, writing=writing) as opened:
        return str(opened.client.get_registered_model(name).name)


def something_that_mlflow_refuses(at: At) -> Iterator[Step]:
    yield (partial(asked, writing=True), at, "nobody")
    yield (partial(asked, writing=True), at, "zoo")


def something_that_mlflow_refuses_to_tell(at: At) -> Iterator[Step]:
    yield (partial(asked, writing=False), at, "nobody")
    yield (partial(asked, writing=False), at, "zoo")


def a_file_more_beside_the_weights(at: At) -> Iterator[Step]:
    result = variant(Path(at.arguments["manifest"].path), at.place / "result", "again")
    arguments = zoo_of(at, result)
    (result / "pytorch_model.bin").write_bytes(b"planted")
    yield (register_merge_of, arguments)
    (result / "pytorch_model.bin").unlink()
    yield (register_merge_of, arguments)


def a_checkpoint_that_was_moved_away(at: At) -> Iterator[Step]:
    from tasks.registry.loader import CheckpointUnavailableError, check_files

    result = variant(Path(at.arguments["manifest"].path), at.place / "result", "again")
    found = register_merge(**zoo_of(at, result))
    model = client(at.registry).get_logged_model(found.candidate.logged_model_id)
    held = Path(unquote(model.artifact_location.removeprefix("file://")))
    record = next(
        value
        for path in held.rglob("*.json")
        if (value := json.loads(path.read_text())).get("path") == str(result)
    )

    def loaded() -> str:
        try:
            check_files(record, "sizes")
        except CheckpointUnavailableError as error:
            raise RefusedError(str(error)) from None
        return "there"

    result.rename(at.place / "moved")
    yield (loaded,)
    (at.place / "moved").rename(result)
    yield (loaded,)


def register_merge_of(arguments: dict[str, Any]) -> str:
    """Register."""
    return str(register_merge(**arguments))


def zoo_of(at: At, result: Path) -> dict[str, Any]:
    """What registers another result of the same inputs, after it was registered once."""
    base, first, second = (
        Path(at.arguments["base"].path),
        *(Path(model.path) for model in at.arguments["models"]),
    )

    class Zoo:
        pass

    zoo: Any = Zoo()
    zoo.base, zoo.code_expert, zoo.prose_expert = base, first, second
    arguments = zoo_merge(zoo, result, at.registry)
    register_merge(**arguments)
    at.serve("1")
    return arguments


def a_stranger_in_mlflows_files(at: At) -> Iterator[Step]:
    result = variant(Path(at.arguments["manifest"].path), at.place / "result", "again")
    arguments = zoo_of(at, result)
    api = client(at.registry)
    model = api.get_logged_model(register_merge(**arguments).candidate.logged_model_id)
    at.serve("1")
    planted = Path(unquote(model.artifact_location.removeprefix("file://"))) / "planted.py"
    planted.write_text("planted = True\n")
    yield (register_merge_of, arguments)
    planted.unlink()
    yield (register_merge_of, arguments)


def a_version_that_leads_elsewhere(at: At) -> Iterator[Step]:
    result = variant(Path(at.arguments["manifest"].path), at.place / "result", "again")
    arguments = zoo_of(at, result)
    number = register_merge(**arguments).candidate.version
    api = client(at.registry)
    at.serve("1")
    with sqlite3.connect(at.registry.removeprefix("sqlite:///")) as database:
        change = "UPDATE model_versions SET storage_location = '/evil' WHERE version = ?"
        database.execute(change, [number])
    yield (register_merge_of, arguments)
    api.delete_model_version("zoo", number)
    yield (register_merge_of, arguments)


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_registry(
    situation: Any,
    mergeflow: Shell,
    advice: Advice,
    tmp_path: Path,
    promoted: Registered,  # noqa: F811
    registry: str,  # noqa: F811
) -> None:
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy/mlflow.db"
    shutil.copyfile(promoted.registry.removeprefix("sqlite:///"), copy)
    at = At(tmp_path, f"sqlite:///{copy}", registry, dict(promoted.arguments))
    advice.follow(mergeflow, situation(at))
