"""What a suite needs is found missing before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from merge_core.errors import RecipeError
from tasks.evaluation.needs import check_needs
from tasks.evaluation.suite import Suite, load_suite
from tests.support.small_suite import write_suite


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    return directory


def changed(tmp_path: Path, settings: dict[str, Any], **task: Any) -> Suite:
    directory = tmp_path / "suite"
    if not directory.exists():
        write_suite(directory)
    file = directory / "suite.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"settings": settings}))
    quiz = directory / "tasks" / "quiz.yaml"
    quiz.write_text(yaml.safe_dump(yaml.safe_load(quiz.read_text()) | task))
    return load_suite(directory)


def test_a_template_a_context_and_named_code_are_asked_for(tmp_path: Path, model: Path) -> None:
    with pytest.raises(RecipeError, match=r"chat template, and .* has none"):
        check_needs(changed(tmp_path, {"apply_chat_template": True}), model)
    (model / "chat_template.jinja").write_text("{{ messages }}")
    check_needs(changed(tmp_path, {"apply_chat_template": True}), model)
    with pytest.raises(RecipeError, match=r"max_length is 65, and the context of .* has 64"):
        check_needs(changed(tmp_path, {"max_length": 65}), model)
    check_needs(changed(tmp_path, {"max_length": 64}), model)
    with pytest.raises(RecipeError, match="answers may have 64 tokens"):
        check_needs(changed(tmp_path, {"generation": {"max_gen_toks": 64}}), model)
    with pytest.raises(RecipeError, match="'quiz' executes what the model writes") as refused:
        check_needs(changed(tmp_path, {}, unsafe_code=True), model)
    assert "tasks[1]" in str(refused.value)
    check_needs(changed(tmp_path, {"run_code": ["quiz"]}), model)
    (model / "config.json").write_text("{}")
    check_needs(changed(tmp_path, {"max_length": 4096, "run_code": ["quiz"]}), model)


def test_a_data_set_is_looked_for_on_this_machine_and_then_on_the_hub(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "prepared"))
    suite = changed(tmp_path, {}, dataset_path="someone/quiz", dataset_kwargs={})
    with pytest.raises(RecipeError, match="'someone/quiz' is not on this machine") as refused:
        check_needs(suite, model)
    assert "HF_HUB_OFFLINE" in str(refused.value)
    (tmp_path / "prepared" / "someone___quiz").mkdir(parents=True)
    check_needs(suite, model)


def test_shipped_suites_say_which_code_they_run(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ messages }}")
    code = load_suite("code")
    without = code.model_copy(
        update={"settings": code.settings.model_copy(update={"run_code": ("mbpp",)})}
    )
    with pytest.raises(RecipeError, match="'mbpp_plus' executes"):
        check_needs(without, model)
