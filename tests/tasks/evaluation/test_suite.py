"""Suites: what is read, what is refused and how it is said, and what the digest covers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from merge_core.errors import RecipeError
from tasks.evaluation.suite import (
    SHIPPED,
    Suite,
    SuiteTask,
    is_self_contained,
    load_suite,
    suite_digest,
    task_directories,
)

STARTER = SHIPPED / "starter"


@pytest.fixture
def suite_directory(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STARTER, tmp_path / "suite"))


def edit(directory: Path, /, **changes) -> Path:
    file = directory / "suite.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}))
    return file


@pytest.mark.parametrize("name", sorted(path.name for path in SHIPPED.iterdir()))
def test_every_shipped_suite_loads_by_name(name):
    suite = load_suite(name)
    assert suite.name == name
    assert len(suite_digest(suite)) == 64


def test_a_suite_is_found_by_name_directory_and_file_and_is_the_same():
    by_name = load_suite("starter")
    assert by_name == load_suite(STARTER) == load_suite(str(STARTER / "suite.yaml"))
    assert by_name.include_directory == STARTER / "tasks"
    assert [task.higher_is_better for task in by_name.tasks] == [True, False, True]


def test_a_suite_survives_json_as_prefect_passes_it():
    suite = load_suite("starter")
    assert type(suite).model_validate_json(suite.model_dump_json()) == suite


def test_only_a_suite_with_its_own_tasks_and_data_needs_no_network():
    assert is_self_contained(load_suite("starter"))
    assert not is_self_contained(load_suite("english-small"))


def test_own_tasks_with_data_on_the_hub_need_the_network(suite_directory):
    task = suite_directory / "tasks" / "starter_facts.yaml"
    config = yaml.safe_load(task.read_text()) | {"dataset_path": "someone/facts"}
    del config["dataset_kwargs"]
    task.write_text(yaml.safe_dump(config))
    suite = load_suite(suite_directory)
    assert task_directories(suite) == [suite_directory / "tasks"]
    assert not is_self_contained(suite)


def test_own_groups_and_tags_are_known_with_their_members(suite_directory):
    tasks = suite_directory / "tasks"
    facts = (tasks / "starter_facts.yaml").read_text()
    (tasks / "starter_facts.yaml").write_text(facts + "tag: quizzes\n")
    (tasks / "inner.yaml").write_text("group: inner\ntask: [starter_facts]\n")
    (tasks / "all.yaml").write_text("group: all\ntask: [inner, {task: starter_facts}]\n")
    for name in ("all", "inner", "quizzes"):
        suite = load_suite(edit(suite_directory, tasks=[{"task": name, "metric": "acc"}]))
        assert is_self_contained(suite)
        assert task_directories(suite) == [tasks]


def test_only_groups_of_lm_eval_make_it_look_everywhere(suite_directory):
    own, shipped, group = (
        {"task": name, "metric": "acc"} for name in ("starter_facts", "arc_easy", "mmlu")
    )
    one = task_directories(load_suite(edit(suite_directory, tasks=[own, shipped])))
    assert one is not None
    assert [path.name for path in one] == ["arc", "tasks"]
    assert task_directories(load_suite(edit(suite_directory, tasks=[own, group]))) is None


def test_task_files_may_include_others_and_name_functions(suite_directory):
    tasks = suite_directory / "tasks"
    (tasks / "_common").write_text("dataset_path: json\ndataset_kwargs: {data_files: data/a.jsonl}")
    (suite_directory / "data" / "a.jsonl").write_text("{}\n")
    (tasks / "more.yaml").write_text("include: _common\ntask: more\nprocess_docs: !function f.g\n")
    edit(suite_directory, tasks=[{"task": "more", "metric": "acc"}])
    suite = load_suite(suite_directory)
    assert is_self_contained(suite)
    before = suite_digest(suite)
    (suite_directory / "data" / "a.jsonl").write_text("{} \n")
    assert suite_digest(suite) != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"setings": {}}, "suite.yaml: setings: unknown key 'setings'"),
        ({"setings": {}}, "did you mean 'settings'?"),
        ({"settings": {"batch_sise": 1}}, "settings.batch_sise: unknown key"),
        ({"settings": {"batch_sise": 1}}, "did you mean 'batch_size'?"),
        ({"settings": {"batch_size": 0}}, "suite.yaml: settings.batch_size:"),
        ({"settings": {"dtype": "int3"}}, "suite.yaml: settings.dtype:"),
        ({"tasks": []}, "suite.yaml: tasks:"),
        ({"tasks": [{"task": "x", "metrik": "acc"}]}, "did you mean 'metric'?"),
        ({"tasks": [{"task": "x", "metric": "acc", "filtr": "a"}]}, "did you mean 'filter'?"),
        ({"tasks": [{"task": "starter_fact", "metric": "acc"}]}, "tasks[0].task: no task"),
        ({"tasks": [{"task": "starter_fact", "metric": "acc"}]}, "did you mean 'starter_facts'?"),
        ({"tasks": [{"task": "hellaswagg", "metric": "acc"}]}, "did you mean hellaswag"),
        ({"tasks": [{"task": "x", "metric": "odd"}]}, "say higher_is_better"),
        ({"tasks": [{"task": "x", "metric": "acc"}] * 2}, "'x' is listed twice"),
        ({"include": "taks"}, "suite.yaml: include: no directory"),
        ({"name": "../up"}, "suite.yaml: name:"),
        ({"directory": "/"}, "'directory' is where the file is"),
        ({"tasks": [{"task": "starter_facts", "metric": "acc_norm"}]}, "tasks[0].metric"),
        ({"tasks": [{"task": "starter_facts", "metric": "acc_norm"}]}, "known here: acc"),
    ],
)
def test_a_mistake_is_named_with_its_place(suite_directory, changes, message):
    with pytest.raises(RecipeError) as caught:
        load_suite(edit(suite_directory, **changes))
    assert message in str(caught.value)


def test_an_unknown_suite_name_gets_the_closest_one():
    with pytest.raises(RecipeError, match="did you mean 'starter'"):
        load_suite("startr")


def test_a_directory_without_a_suite_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"has no suite\.yaml"):
        load_suite(tmp_path)


@pytest.mark.parametrize("text", ["tasks: [", "- a\n- b\n", "\x00"])
def test_a_file_that_is_no_suite_is_refused(tmp_path, text):
    file = tmp_path / "suite.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=r"suite\.yaml"):
        load_suite(file)


def test_missing_data_is_named_before_anything_runs(suite_directory):
    (suite_directory / "data" / "facts.jsonl").unlink()
    with pytest.raises(RecipeError, match=r"'data/facts.jsonl' does not exist") as caught:
        load_suite(suite_directory)
    assert "starter_facts.yaml" in str(caught.value)


def test_a_damaged_task_file_is_named(suite_directory):
    (suite_directory / "tasks" / "starter_facts.yaml").write_text("task: [")
    with pytest.raises(RecipeError, match=r"starter_facts\.yaml"):
        load_suite(suite_directory)


def test_task_files_that_include_each_other_are_refused(suite_directory):
    file = suite_directory / "tasks" / "starter_facts.yaml"
    file.write_text("include: starter_facts.yaml\ntask: starter_facts\n")
    with pytest.raises(RecipeError, match="includes itself"):
        load_suite(suite_directory)


def test_the_digest_is_of_content_not_of_place(suite_directory):
    assert suite_digest(load_suite(suite_directory)) == suite_digest(load_suite("starter"))


@pytest.mark.parametrize(
    "file", ["data/facts.jsonl", "data/prose.jsonl", "tasks/starter_facts.yaml"]
)
def test_the_digest_changes_with_data_and_task_files(suite_directory, file):
    before = suite_digest(load_suite(suite_directory))
    path = suite_directory / file
    text = path.read_text()
    path.write_text(text.replace("honey", "money").replace("kettle", "pot").replace("Quest", "Q"))
    after = suite_digest(load_suite(suite_directory))
    assert after != before


def test_the_digest_changes_with_python_beside_the_tasks(suite_directory):
    before = suite_digest(load_suite(suite_directory))
    (suite_directory / "tasks" / "helpers.py").write_text("def clean(docs):\n    return docs\n")
    assert suite_digest(load_suite(suite_directory)) != before


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"timeout_minutes": 1}, True),
        ({"description": "other words"}, True),
        ({"settings": {"batch_size": 8, "num_fewshot": 0}}, True),
        ({"settings": {"batch_size": 4, "num_fewshot": 0}}, False),
        ({"settings": {"batch_size": 8, "num_fewshot": 1}}, False),
        ({"tasks": [{"task": "starter_facts", "metric": "acc"}]}, False),
        ({"name": "other"}, False),
    ],
)
def test_the_digest_changes_with_what_changes_scores_and_names(suite_directory, changes, same):
    before = suite_digest(load_suite(suite_directory))
    assert (suite_digest(load_suite(edit(suite_directory, **changes))) == before) == same


def test_a_task_without_a_cluster_is_written_as_it_always_was():
    """The suite's digest is of what is written."""
    task = SuiteTask(task="quiz", metric="acc")
    assert set(task.model_dump()) == {"task", "metric", "higher_is_better", "filter"}
    assert SuiteTask(**task.model_dump(), cluster="passage").model_dump()["cluster"] == "passage"


def test_later_settings_change_the_digest_only_where_they_are_written(suite_directory):
    plain = suite_digest(load_suite(suite_directory))
    whole = yaml.safe_load((suite_directory / "suite.yaml").read_text())
    seen = {plain}
    for settings in (
        {"generation": {"temperature": 0.7}},
        {"generation": {"temperature": 0.7}, "repeats": 3},
        {"system_instruction": "Be short."},
        {"apply_chat_template": True, "fewshot_as_multiturn": False},
        {"run_code": ["starter_facts"]},
        {"device_map": "auto"},
        {"batch_size": "auto"},
    ):
        edit(suite_directory, settings=whole["settings"] | settings)
        seen.add(suite_digest(load_suite(suite_directory)))
    assert len(seen) == 8
    edit(suite_directory, settings=whole["settings"] | {"repeats": 1, "run_code": []})
    assert suite_digest(load_suite(suite_directory)) == plain


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"repeats": 2}, "every answer would be the same"),
        ({"fewshot_as_multiturn": True}, "write apply_chat_template: true too"),
        ({"run_code": ["starter_fact"]}, "names 'starter_fact', which is no task of this suite"),
        ({"batch_size": "automatic"}, "batch_size"),
        ({"generation": {"temprature": 1}}, "temprature"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(suite_directory, settings, said):
    with pytest.raises(RecipeError, match=said):
        load_suite(edit(suite_directory, settings=settings))


def test_halves_of_a_suite_are_two_suites(suite_directory):
    decides, searches = (load_suite(f"{suite_directory}{part}") for part in ("", "#search"))
    assert (decides.part, searches.part) == ("decide", "search")
    assert suite_digest(decides) != suite_digest(searches)
    assert load_suite("starter#decide") == load_suite("starter")
    values = yaml.safe_load((suite_directory / "suite.yaml").read_text())
    del values["split"]
    (suite_directory / "suite.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(RecipeError, match="is not split, so it has no half 'search'"):
        load_suite(f"{suite_directory}#search")


def test_a_weight_is_part_of_the_suite_where_it_is_written() -> None:
    plain = SuiteTask(task="quiz", metric="acc", higher_is_better=True)
    assert "weight" not in plain.model_dump()
    guarded = SuiteTask(**plain.model_dump(), weight=0)
    assert guarded.model_dump()["weight"] == 0
    Suite(name="s", tasks=(plain, guarded.model_copy(update={"task": "safety"})))
    with pytest.raises(ValidationError, match="every task has weight 0"):
        Suite(name="s", tasks=(guarded,))
    for weight in (-1, float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            SuiteTask(**plain.model_dump(), weight=weight)
