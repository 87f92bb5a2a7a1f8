"""Hostile names of directories, tasks and comments, through commands and a whole pipeline."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path

import pytest
import yaml
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from flows.cli import program
from flows.merge import merge_pipeline
from flows.model_zoo import Zoo
from flows.settings.pipeline import load_pipeline
from flows.stack.prefect_session import PrefectSession
from flows.steps.endings import Ending, ending_of
from merge_core.files.strict_yaml import load_yaml_documents
from merge_core.homes.home import Home
from tasks.lineage.text import render_lineage
from tasks.lineage.trace import lineage
from tasks.promotion.approval import with_approval
from tasks.promotion.rule import PromotionRule
from tasks.records import Approval
from tasks.registry.client import default_tracking_uri, open_registry
from tasks.reports.decision import decision_markdown, question_markdown
from tasks.reports.profile_plot import profile_figure_png
from tasks.reports.verify import profile_markdown
from tests.flows.test_merge import markdown_of
from tests.support.decisions import decide
from tests.support.hostile_names import MARKDOWN, NASTY, is_plain
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama
from tests.tasks.promotion.test_rule import bits_task, report
from tests.tasks.reports.test_verify import profile


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Two models in directories with hostile names, a config that says more, and a recipe."""
    name = "x\n  what to do: obey\x1b[31m|<img src=x onerror=alert(1)>[red]`~~a~~\u202e"
    place = tmp_path / "models"
    for index, part in enumerate(("base", "expert")):
        weights = base_weights() if part == "base" else fine_tuned(base_weights(), index)
        write_llama(place / f"{name}-{part}".replace("/", "_"), weights)
    return place


def _directories(place: Path) -> list[Path]:
    return sorted(place.iterdir())


@pytest.mark.parametrize("command", ["merge", "verify", "plan", "explain", "profile"])
def test_a_hostile_directory_is_shown_as_a_name(
    hostile: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base, expert = _directories(hostile)
    recipe = tmp_path / "recipe.yaml"
    models = [{"model": str(expert), "parameters": {"weight": 0.5}}]
    values = {"merge_method": "task_arithmetic", "base_model": str(base), "models": models}
    recipe.write_text(yaml.safe_dump(values))
    out = [str(tmp_path / "out")] if command == "merge" else []
    assert program.run([command, str(recipe), *out]) == 0
    seen = capsys.readouterr()
    for text in (seen.out, seen.err):
        assert is_plain(text, lines=True)
        assert not any(line.startswith("  what to do: obey") for line in text.splitlines())
    if command == "merge":
        _check_card(tmp_path / "out" / "README.md")
        (loaded,) = load_yaml_documents(tmp_path / "out" / "mergeflow_recipe.yaml")
        assert loaded["base_model"] == str(base)  # what is for machines is exact


def _check_card(card: Path) -> None:
    text = card.read_text()
    assert is_plain(text, lines=True)
    _, front, body = text.split("---\n", 2)
    assert set(yaml.safe_load(front)) == {
        *("base_model", "base_model_relation", "library_name", "tags"),
    }
    rendered = MARKDOWN.render(body)
    assert "<img" not in rendered
    assert "<a " not in rendered
    assert rendered.count("<tr>") == 3
    assert "onerror" in html.unescape(rendered)


def test_an_error_about_a_hostile_directory_forges_nothing(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, expert = _directories(hostile)
    shutil.rmtree(expert)
    recipe = tmp_path / "recipe.yaml"
    models = [{"model": str(each), "parameters": {"weight": 1}} for each in (base, expert)]
    recipe.write_text(yaml.safe_dump({"merge_method": "linear", "models": models}))
    assert program.run(["verify", str(recipe)]) == 2
    said = capsys.readouterr().err
    assert is_plain(said, lines=True)
    (mend,) = [line for line in said.splitlines() if line.startswith("  what to do:")]
    assert not mend.startswith("  what to do: obey")


def test_a_picture_takes_no_formula_from_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`$` begins a formula in matplotlib, and one that is none raises."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    names = ("$\\frac{$a", "b\n$\x1b$<img src=x>")
    measured = profile(2, 2, ("embeddings",)).model_copy(update={"models": names, "base": NASTY})
    assert profile_figure_png(measured).startswith(b"\x89PNG")
    _check_page(profile_markdown(measured))


def test_a_decision_shows_tasks_models_and_comments_as_text() -> None:
    base = report("base", bits_task(NASTY, 0))
    expert = report("expert", bits_task(NASTY, -0.4), reference=f"/models/{NASTY}")
    merged = report("merged", bits_task(NASTY, -0.2))
    decision = decide(merged, base, PromotionRule(min_documents=5), [expert])
    approval = Approval(
        approved=True, by=NASTY, comment=NASTY, at="2026-01-01T00:00:00+00:00", flow_run_id="r"
    )
    decided = with_approval(decision, approval, "1h")
    _check_page(decision_markdown(decided, base, [expert], merged))
    _check_page(question_markdown(decision, base, [expert], merged))


@pytest.mark.slow
def test_a_pipeline_with_hostile_names_leaves_safe_pages_and_records(
    hostile: Path, tiny_zoo: Zoo, tmp_path: Path, prefect: PrefectSession, home: Home
) -> None:
    suite = tmp_path / "suite"
    shutil.copytree(tiny_zoo.suite, suite)
    values = yaml.safe_load((suite / "suite.yaml").read_text())
    values["tasks"] = [task for task in values["tasks"] if task["task"] == "zoo_prose_bpb"]
    (suite / "suite.yaml").write_text(yaml.safe_dump(values))
    base, expert = _directories(hostile)
    for path, model in ((base, tiny_zoo.base), (expert, tiny_zoo.code_expert)):
        shutil.rmtree(path)
        shutil.copytree(model, path)
    models = [{"model": str(expert), "parameters": {"weight": 0.5}}]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(base), "models": models}
    promote = {"max_regression": 1.0, "min_gain": -1.0, "min_documents": 5}
    pipeline = {"name": "hostile", "recipe": recipe, "evaluate": {"suite": str(suite)}}
    pipeline |= {"promote": promote, "register": {"model": "hostile"}}
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))
    loaded = load_pipeline(tmp_path / "pipeline.yaml")
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: str(home.cache)}):
        state = merge_pipeline(loaded.pipeline, str(tmp_path), return_state=True)
    assert ending_of(state) is Ending.PROMOTED, state.message
    assert is_plain(state.message or "")
    pages = markdown_of(state)
    assert len(pages) >= 4
    for page in pages.values():
        _check_page(page)
    uri = default_tracking_uri(home)
    tree = render_lineage(lineage("models:/hostile@champion", uri))
    assert is_plain(tree, lines=True)
    assert "obey" in tree
    with open_registry(uri) as registry:
        for version in registry.client.search_model_versions("name = 'hostile'"):
            _check_page(version.description)
            said = {key: text for key, text in version.tags.items() if not key.endswith("path")}
            assert all(map(is_plain, said.values())), said


def _check_page(page: str) -> None:
    """Whether a page draws no more than its own headings, lists, tables and pictures."""
    assert is_plain(page, lines=True)
    rendered = MARKDOWN.render(page)
    kinds = set(re.findall(r"<(\w+)", rendered))
    assert kinds <= {
        *("h2", "h3", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"),
        *("strong", "em", "code", "pre", "img"),
    }, kinds
    assert all(
        source.startswith("data:image/png") for source in re.findall(r'src="(\S*)', rendered)
    )
    assert "onerror=" not in re.sub(r"<code.*?</code>|&lt;.*?&gt;", "", rendered, flags=re.S)
