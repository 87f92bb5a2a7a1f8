"""A home that earlier code filled is used by today's: nothing is merged or evaluated again."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from flows.model_zoo import Zoo
from tests.support.former_code import former_code, mergeflow

KNOWN_ANEW = {
    # The last one whose caches, stores and servers anybody could give orders to.
    "5eaacac26d5b": {"verify", "decide"},
    # The last one without rooms: its records are of classes in modules that have moved.
    "646b31ea8788": {"verify", "decide"},
    # The last one without a history of the alias, whose gate was the former one by default.
    "221bab79f591": {"verify", "decide"},
    # The last one whose merges nobody signed.
    "4c7cd136a15b": {"verify", "decide"},
    # The last one whose runs in MLflow have no list of their files.
    "ecf7bc128ce4": {"verify", "decide"},
    # The last one whose decisions have reasons in other words.
    "2618a5cf8c89": {"decide"},
}
"""Former commits, and steps that are done again: they take a moment, and may say something else."""

LENIENT = {"max_regression": 0.5, "min_gain": -0.5, "min_documents": 10}
_STEP = re.compile(r"^\s+(resolve|verify|profile|merge|evaluate|decide)\s+(\S+).*?\s(\S+(?: s)?)$")


@dataclass
class Inherited:
    """A home, the pipeline that filled it, and what the former code said."""

    commit: str
    home: Path
    pipeline: Path
    first: subprocess.CompletedProcess[str]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of today's code on this home."""
        return mergeflow(*arguments, home=self.home, cwd=self.pipeline.parent)

    @property
    def objects(self) -> list[str]:
        """Names of the published checkpoints."""
        return sorted(path.name for path in (self.home / "store" / "objects").iterdir())


pytestmark = pytest.mark.slow  # `make sessions`: filling a home takes a minute for each commit


@pytest.fixture(scope="module", params=KNOWN_ANEW)
def inherited(
    request: pytest.FixtureRequest, tiny_zoo: Zoo, tmp_path_factory: pytest.TempPathFactory
) -> Inherited:
    """A home in which the former code promoted a merge."""
    directory = tmp_path_factory.mktemp("upgrade")
    code = former_code(request.param, directory / "code")
    shutil.copytree(tiny_zoo.suite, directory / "suite")
    suite = yaml.safe_load((directory / "suite" / "suite.yaml").read_text())
    later = {"cluster", "weight"}  # keys that former code does not know
    suite["tasks"] = [
        {key: value for key, value in task.items() if key not in later}
        for task in suite["tasks"]
        if task["task"].endswith("bpb")
    ]
    (directory / "suite" / "suite.yaml").write_text(yaml.safe_dump(suite))
    pipeline = directory / "pipeline.yaml"
    pipeline.write_text(
        yaml.safe_dump(
            {
                "name": "zoo",
                "recipe": {
                    "merge_method": "task_arithmetic",
                    "base_model": str(tiny_zoo.base),
                    "models": [
                        {"model": str(expert), "parameters": {"weight": 0.5}}
                        for expert in (tiny_zoo.code_expert, tiny_zoo.prose_expert)
                    ],
                },
                "evaluate": {"suite": "suite", "parallel": 2},
                "promote": LENIENT,
                "register": {"model": "zoo"},
            }
        )
    )
    first = mergeflow("run", "pipeline.yaml", home=directory / "home", cwd=directory, code=code)
    assert first.returncode == 0, first.stderr + first.stdout
    return Inherited(request.param, directory / "home", pipeline, first)


def test_the_champion_comes_out_the_same_and_it_is_said_what_is_assumed(
    inherited: Inherited,
) -> None:
    made = inherited.run("reproduce", "models:/zoo@champion", "--json")
    assert made.returncode == 0, made.stdout + made.stderr
    told = json.loads(made.stdout)
    assert told["same"]
    has_lock = inherited.commit.startswith(("4c7cd13", "ecf7bc1", "2618a5c"))
    assert any("it has no lock" in line for line in told["assumed"]) is not has_lock


def test_every_step_is_found_in_the_cache_and_the_champion_stays(inherited: Inherited) -> None:
    before = inherited.objects
    again = inherited.run("run", "pipeline.yaml")
    assert again.returncode == 0, again.stderr + again.stdout
    steps = [match.groups() for line in again.stdout.splitlines() if (match := _STEP.match(line))]
    known_anew = KNOWN_ANEW[inherited.commit]
    done_again = [step for step in steps if step[2] != "cached" and step[0] not in known_anew]
    assert len(steps) >= 9, again.stdout
    assert not done_again, again.stdout
    assert inherited.objects == before
    assert _serves(again) == _serves(inherited.first)


def test_the_champion_and_its_lineage_are_found(inherited: Inherited) -> None:
    tree = inherited.run("lineage", "models:/zoo@champion", "--json")
    assert tree.returncode == 0, tree.stderr
    assert json.loads(tree.stdout)


def test_the_record_of_the_champion_holds(inherited: Inherited) -> None:
    audited = inherited.run("audit", "models:/zoo@champion", "--json")
    assert audited.returncode == 0, audited.stdout + audited.stderr


def test_a_champion_without_a_history_can_be_chosen_and_let_go(inherited: Inherited) -> None:
    chosen = inherited.run("promote", "zoo", "1", "--why", "tried by hand")
    assert chosen.returncode == 0, chosen.stdout + chosen.stderr
    again = inherited.run("run", "pipeline.yaml")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "tried by hand" in again.stdout + again.stderr
    assert inherited.run("unpin", "zoo").returncode == 0
    history = inherited.run("history", "zoo", "--json")
    assert history.returncode == 0, history.stdout + history.stderr
    (chain,) = json.loads(history.stdout)["chains"]
    assert {line["event"] for line in chain["lines"]} >= {"found", "moved", "unpinned"}


def test_a_stored_checkpoint_can_be_merged_again(inherited: Inherited, tmp_path: Path) -> None:
    recipe = inherited.pipeline.parent / "again.yaml"
    recipe.write_text(
        "merge_method: linear\nmodels:\n"
        "  - {model: 'models:/zoo@champion', parameters: {weight: 1.0}}\n"
        "  - {model: 'models:/zoo/1', parameters: {weight: 1.0}}\n"
    )
    merged = inherited.run("merge", str(recipe), str(tmp_path / "out"))
    assert merged.returncode == 0, merged.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()


def _serves(run: subprocess.CompletedProcess[str]) -> str:
    found = re.search(r"serve\s+(\S+)", run.stderr + run.stdout)
    assert found, run.stderr + run.stdout
    return found[1]
