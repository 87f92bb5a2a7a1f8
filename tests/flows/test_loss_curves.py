"""Where a diagnosis makes its merges: what a killed one left is removed, and nothing of others."""

from __future__ import annotations

from pathlib import Path

from flows.steps.loss_curves import Evaluations, search_half
from merge_core.homes.home import Home
from tasks.evaluation.evaluators import Evaluators
from tasks.evaluation.suite import Split, load_suite, suite_digest
from tests.support.tiny_llama import base_weights, write_llama


def test_what_a_killed_diagnosis_left_is_removed_when_it_is_made_again(
    home: Home, tmp_path: Path
) -> None:
    source = write_llama(tmp_path / "base", base_weights())
    with Evaluators(home.scratch) as evaluators:
        suite = search_half(load_suite("starter"))
        how = Evaluations(home, {"base": source}, suite, "cpu", 1, evaluators)
        killed, other = how._workshop(["a", "b"]), how._workshop(["a", "c"])
        left = []
        for workshop in (killed, other):
            left.append(home.scratch / f"mergeflow-candidate-{workshop._named}-left")
            left[-1].mkdir(parents=True)
        with how._alone(how._workshop(["a", "b"])):
            assert [path.exists() for path in left] == [False, True]
        other.clear()
        assert not left[1].exists()


def test_the_half_that_is_looked_at_is_the_one_for_searching() -> None:
    suite = load_suite("starter")
    assert search_half(suite).part == "search"
    assert search_half(suite).split == suite.split
    unsplit = suite.model_copy(update={"split": None})
    assert search_half(unsplit).split == Split(search=0.5)
    assert suite_digest(search_half(suite)) != suite_digest(suite), "evaluations are kept apart"
