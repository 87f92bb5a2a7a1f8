"""Averaging files: what they may say, how mistakes are told, and the recipes that come of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.settings.averaging import Averaging, load_averaging, load_suites
from flows.settings.search import halves_of
from merge_core.errors import RecipeError
from merge_core.homes.home import Home
from tasks.evaluation.suite import Split, Suite, load_suite, suite_digest

GOOD: dict[str, Any] = {
    "name": "nightly",
    "training": {"run": "./run"},
    "evaluate": {"suite": "starter"},
}
SHIPPED = sorted((Path(__file__).parents[3] / "configs" / "averages").glob("*.yaml"))


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with one value set, `a.b.c` being nested keys."""
    values = json.loads(json.dumps(GOOD))
    *parents, last = path.split(".")
    place = values
    for key in parents:
        place = place.setdefault(key, {})
    place[last] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "messages"),
    [
        ("trainning", {}, ["did you mean 'training'?"]),
        ("training.run", "", ["training.run"]),
        ("training.marker", "a/b", ["training.marker"]),
        ("choose.lst", 3, ["did you mean 'last'?"]),
        ("choose.last", 0, ["choose.last"]),
        ("average.schedule", "emma", ["average.schedule", "'ema'"]),
        ("average.beta", 1, ["average.beta"]),
        ("average.decay", "sqrt", ["average.decay", "'1-sqrt'"]),
        ("promote.baseline", "base", ["promote.baseline", "known here: best, champion, latest"]),
        ("promote.baseline", "champion", ["promote.baseline", "set register.model"]),
        (
            "promote",
            {"exceed": 0, "min_gain": 0},
            ["promote: exceed is a key of the calibrated gate", "leave out min_gain"],
        ),
        ("retention.keep", 0, ["retention.keep"]),
    ],
)
def test_a_mistake_names_its_place_and_what_was_meant(
    tmp_path: Path, path: str, value: Any, messages: list[str]
) -> None:
    file = tmp_path / "averaging.yaml"
    file.write_text(yaml.safe_dump(changed(path, value)))
    with pytest.raises(RecipeError) as caught:
        load_averaging(file)
    for message in [str(file), *messages]:
        assert message in str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_can_be_read_and_survive_the_way_through_a_form(path: Path) -> None:
    averaging = load_averaging(path).averaging
    form = averaging.model_dump(mode="json", by_alias=True)
    assert Averaging.model_validate(json.loads(json.dumps(form))) == averaging


def test_the_newest_checkpoint_lends_config_and_tokenizer() -> None:
    averaging = Averaging.model_validate(changed("average", {"schedule": "wma"}))
    recipe = averaging.recipe(averaging.weights(["/run/c1", "/run/c2", "/run/c3"]))
    assert recipe.donor == "/run/c3"
    weights = {entry.model: entry.parameters["weight"] for entry in recipe.models}
    assert weights == {"/run/c3": 3 / 6, "/run/c2": 2 / 6, "/run/c1": 1 / 6}


def test_checkpoints_without_weight_are_no_part_of_the_recipe() -> None:
    averaging = Averaging.model_validate(changed("average", {"schedule": "ema", "beta": 0.0}))
    assert averaging.recipe(averaging.weights(["/run/c1", "/run/c2"])).references() == ["/run/c2"]


def test_settings_that_change_the_result_change_its_digest_and_others_do_not() -> None:
    suite = load_suite("starter")

    def digest(values: dict[str, Any]) -> str:
        return Averaging.model_validate(values).settings_digest(suite, suite)

    known = digest(GOOD)
    for path, value in (
        ("average.schedule", "wma"),
        ("choose.last", 4),
        ("promote.min_gain", 0.01),
        ("register.model", "mine"),
        ("training.run", "other"),
    ):
        assert digest(changed(path, value)) != known, path
    for path, value in (
        ("description", "words"),
        ("training.settle_seconds", 5),
        ("execution.threads", 2),
        ("retention.keep", 9),
        ("promote.approve_within", "8h"),
    ):
        assert digest(changed(path, value)) == known, path


def test_a_greedy_soup_is_chosen_by_one_half_of_the_suite_and_decided_on_the_other(
    home: Home,
) -> None:
    def parts(**average: Any) -> tuple[Suite, Suite]:
        return load_suites(Averaging.model_validate(changed("average", average)), home)

    deciding, searching = parts(schedule="greedy_soup")
    assert (deciding.part, searching.part) == ("decide", "search")
    assert deciding.split == searching.split == load_suite("starter").split
    unsplit = halves_of(load_suite("starter").model_copy(update={"split": None}))
    assert [(each.part, each.split) for each in unsplit] == [
        ("search", Split(search=0.5)),
        ("decide", Split(search=0.5)),
    ]
    written, chosen_by = parts(schedule="greedy_soup", held_out="starter")
    assert suite_digest(written) == suite_digest(chosen_by) == suite_digest(load_suite("starter"))
    assert suite_digest(parts(schedule="uniform")[0]) == suite_digest(load_suite("starter"))


def test_an_average_is_judged_by_the_gate_that_its_rule_names() -> None:
    values = changed("promote", {"gate": "calibrated", "exceed": 0.1})
    averaging = Averaging.model_validate(values)
    rule = averaging.pipeline(averaging.recipe(averaging.weights(["/run/c1", "/run/c2"]))).promote
    assert (rule.gate, rule.exceed, rule.alpha) == ("calibrated", 0.1, None)
    form = averaging.model_dump(mode="json", by_alias=True)
    assert Averaging.model_validate(json.loads(json.dumps(form))) == averaging
    suite = load_suite("starter")
    former = Averaging.model_validate(GOOD).settings_digest(suite, suite)
    assert averaging.settings_digest(suite, suite) != former
