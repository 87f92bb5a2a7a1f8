"""A greedy soup as a search: which candidate comes next, and what it is made of."""

from __future__ import annotations

from typing import Any

from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.recipe import Recipe
from tasks.search.selection import best, candidates
from tasks.search.soup import GreedySoup
from tasks.search.trial import Result, Trial

NAMES = ("a", "b", "c")


def template(**changes: Any) -> Recipe:
    models = [{"model": f"./{name}"} for name in NAMES]
    values = {"merge_method": "linear", "base_model": "./base", "models": models}
    return parse_recipe({key: value for key, value in (values | changes).items() if value})


def tried(soup: GreedySoup, scores: dict[str, float | None]) -> list[Trial]:
    """The trials of a whole search whose candidates have these scores, by their ingredients."""
    done: list[Trial] = []
    waiting = [start.label for start in soup.alone]
    while waiting:
        label = waiting.pop(0)
        recipe = soup.recipe(label, done)
        score = scores["".join(entry.model[2:] for entry in recipe.models)]
        outcome = "failed" if score is None else "whole"
        result = Result(outcome=outcome, recipe=recipe.digest, objective=score)
        done.append(Trial(number=len(done), values={}, label=label, result=result))
        if not waiting and (following := soup.following(done)):
            waiting = [following.label]
    return done


SCORES = {"a": 0.2, "b": 0.3, "c": 0.1, "ab": 0.4, "abc": 0.35}


def test_each_model_is_tried_alone_and_then_added_the_best_first() -> None:
    soup = GreedySoup(template())
    trials = tried(soup, {**SCORES})
    assert [trial.label for trial in trials] == [
        *("c alone", "b alone", "a alone"),
        *("soup of 2 with a", "soup of 3 with c"),
    ]
    made = soup.soup(trials)
    assert soup.models(made) == ["./b", "./a"]
    assert [each.taken for each in made.trials] == [True, False]
    winner = best(trials)
    assert winner == trials[3]
    assert candidates(trials) == soup.most == 5


def test_a_soup_is_the_plain_mean_with_the_settings_of_the_recipe() -> None:
    soup = GreedySoup(template(out_dtype="float32"))
    recipe = soup.recipe("soup of 2 with a", tried(soup, {**SCORES}))
    assert (recipe.base_model, recipe.out_dtype) == ("./base", "float32")
    assert [(each.model, each.parameters) for each in recipe.models] == [
        ("./a", {"weight": 0.5}),
        ("./b", {"weight": 0.5}),
    ]


def test_a_search_that_was_killed_goes_on_with_the_same_candidate() -> None:
    soup = GreedySoup(template())
    trials = tried(soup, {**SCORES})
    for finished in range(3, 5):
        following = soup.following(trials[:finished])
        assert following is not None
        assert following.label == trials[finished].label
    assert soup.following(trials) is None
    assert soup.soup(trials[:4]).ingredients == (1, 2), "as far as a budget went"


def test_what_cannot_be_evaluated_is_not_in_the_soup() -> None:
    soup = GreedySoup(template())
    trials = tried(soup, {"a": None, "b": 0.3, "c": 0.1, "bc": 0.4, "abc": None})
    assert soup.models(soup.soup(trials)) == ["./c", "./b"]
    nothing = [trial.model_copy(update={"result": trials[2].result}) for trial in trials[:3]]
    assert soup.following(nothing) is None
