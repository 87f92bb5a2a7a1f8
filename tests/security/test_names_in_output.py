"""Names that strangers choose are shown as names: on a terminal, in a tree, in a graph, on pages,
in a model card. First each place alone with any text at all, then commands with hostile models.
"""

from __future__ import annotations

import html
import io
import json
import logging
import re
import shutil
import unicodedata
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from rich.console import Console

from flows.cli import program
from flows.merge import merge_pipeline
from flows.model_zoo import Zoo
from flows.settings.pipeline import load_pipeline
from flows.stack.prefect_session import PrefectSession
from flows.steps import artifacts
from flows.steps.endings import Ending, ending_of
from flows.terminal.console import Terminal, cell, explain
from merge_core.errors import MergeflowError, StepError, error_from, error_values
from merge_core.files.strict_yaml import dump_yaml, load_yaml_documents
from merge_core.findings import Finding, printable, some
from merge_core.homes.home import Home
from merge_core.text.markdown import block, code, inline, mermaid_label, table
from merge_core.text.plain import LONGEST, plain, plain_json, plain_log
from tasks.promotion.approval import with_approval
from tasks.promotion.rule import PromotionRule, decide
from tasks.records import Approval
from tasks.registry.client import default_tracking_uri, open_registry
from tasks.registry.lineage import (
    Lineage,
    LineageMerge,
    LineageNode,
    lineage,
    lineage_mermaid,
    render_lineage,
)
from tasks.reports.decision import decision_markdown, question_markdown
from tasks.reports.profile_plot import profile_figure_png
from tasks.reports.verify import profile_markdown
from tests.flows.test_merge import markdown_of
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama
from tests.tasks.promotion.test_rule import bits_task, report
from tests.tasks.reports.test_verify import profile

NASTY = (
    "a\nPromoted: forged\r\x1b[2J\x1b]8;;http://evil.example\x07click\x1b]8;;\x07"
    "\u202egnp.exe\u200b\u2066|<img src=x onerror=alert(1)>[red]bold[/red][l](http://evil.example)"
    "`code`*b*_i_**x**~~s~~$\\alpha$&lt;b&gt;\x9b31m\x00 --- # -- :bomb: \u0301\u0301\u0301\u0301"
)
PIECES = [*sorted(set(NASTY)), "```", "<br>", "![", "](", "://", "\r\n", "    ", "1. ", "&#60;"]
TEXT = st.one_of(
    st.text(max_size=200),
    st.lists(st.sampled_from(PIECES), max_size=60).map("".join),
    st.just(NASTY),
)
few = settings(max_examples=60)
"""Enough for each place here: what they share is tried often enough by all of them."""
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
COMMANDS = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def is_plain(text: str, lines: bool = False) -> bool:
    """Whether a terminal would draw a text and do nothing else."""
    kept = text.replace("\n", "") if lines else text
    return not any(unicodedata.category(character) in COMMANDS for character in kept)


@few
@given(TEXT)
def test_plain_text_is_one_line_that_only_draws(text: str) -> None:
    shown = plain(text)
    assert is_plain(shown)
    assert len(shown) <= LONGEST
    assert plain(shown) == shown
    assert is_plain(printable(text))
    assert is_plain(some([text, text]))


@pytest.mark.parametrize(
    "name",
    [
        *("org/model-7B_v1.5@main", "models:/name@champion", "layers.0.mlp.weight", "~/a+b"),
        *(
            "Größe",
            "日本語モデル",
            "русский",
            "العربية",
            "हिन्दी",
            "ไทย",
            "e\u0301te\u0301",
            "한국어",
        ),
    ],
)
def test_a_name_in_any_language_stays_what_it_is(name: str) -> None:
    assert plain(name) == name
    assert inline(name) == name
    assert MARKDOWN.renderInline(inline(name)) == name


def test_what_cannot_be_seen_is_written_out() -> None:
    assert plain("a\nb\x1b[0m\u202e\u200b\x9b\ufe0f\ud800") == (
        "a\\nb\\x1b[0m\\u202e\\u200b\\x9b\\ufe0f\\ud800"
    )
    assert plain("a\u00a0b\u3000c") == "a b c"
    assert plain("e" + "\u0301" * 50) == "e" + "\u0301" * 3
    assert plain("x" * 90, 20) == "xxxxxxxxxxx...xxxxxx"
    assert len(plain("\x1b" * 10_000, 50)) == 50


@few
@given(TEXT, TEXT)
def test_a_terminal_is_sent_nothing_to_obey(name: str, other: str) -> None:
    output = io.StringIO()
    terminal = Terminal()
    terminal.notes = terminal.results = Console(
        file=output, force_terminal=True, color_system=None, width=10**6, soft_wrap=True
    )
    terminal.say(f"  {name}", style="bold")
    terminal.say_lines(f"{plain(name)}\n{plain(other)}")
    terminal.results.print(cell(name))
    assert is_plain(_without_style(output.getvalue()), lines=True)
    assert output.getvalue().count("\n") == 4


@few
@given(TEXT, TEXT, TEXT, TEXT)
def test_an_error_is_as_many_lines_as_it_says(what: str, where: str, mend: str, more: str) -> None:
    error = StepError(what, where=where or "here", mend=mend or "wait", details=[more])
    said = str(error)
    assert is_plain(said, lines=True)
    assert said.count("\n") == 2
    assert said.splitlines()[2].startswith("  what to do: ")
    assert str(error_from(json.loads(json.dumps(error_values(error))))) == said


@few
@given(TEXT)
def test_a_finding_forges_no_line(name: str) -> None:
    finding = Finding(severity="error", code="x", subject=name, message=name, mend=name or "wait")
    assert is_plain(str(finding), lines=True)
    assert str(finding).count("\n") == 1


@few
@given(TEXT)
def test_a_log_line_is_one_line(name: str) -> None:
    log = plain_log("mergeflow.test_names")
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    try:
        log.warning("the worker at %s is gone", name)
        log.warning(name)
    finally:
        log.removeHandler(handler)
    assert len(seen) == 2
    assert all(map(is_plain, seen))


@few
@given(TEXT)
def test_markdown_shows_a_name_and_nothing_else(name: str) -> None:
    for shown, wanted in ((inline(name), plain(name, 300).strip()), (code(name), None)):
        assert is_plain(shown)
        tokens = MARKDOWN.parse(f"* {shown}")
        inner = [child for token in tokens for child in token.children or []]
        kinds = {token.type for token in tokens if token.type != "inline"}
        assert kinds <= {
            *("bullet_list_open", "list_item_open", "paragraph_open", "paragraph_close"),
            *("list_item_close", "bullet_list_close"),
        }, shown
        assert {child.type for child in inner} <= {"text", "text_special", "code_inline"}, shown
        if wanted is not None:
            said = "".join(child.content for child in inner)
            assert _squeezed(said) == _squeezed(wanted)


@few
@given(st.lists(TEXT, min_size=1, max_size=4))
def test_a_table_has_as_many_cells_as_it_was_given(names: list[str]) -> None:
    lines = table(names, [names, names], left=())
    rendered = MARKDOWN.render("\n".join(lines) + "\n")
    assert len(lines) == 4
    assert rendered.count("<tr>") == 3
    assert rendered.count("<td") == 2 * len(names)
    allowed = r"</?(?:table|thead|tbody|tr|th|td)(?: style=\"text-align:right\")?>"
    assert "<" not in re.sub(allowed, "", rendered)


@few
@given(TEXT)
def test_a_block_of_code_is_ended_by_its_own_end_alone(text: str) -> None:
    tokens = MARKDOWN.parse(f"{block(text, 'yaml')}\nafter\n")
    assert [token.type for token in tokens][:2] == ["fence", "paragraph_open"]


@few
@given(TEXT)
def test_a_label_of_a_graph_holds_no_syntax(name: str) -> None:
    shown = mermaid_label(name)
    assert re.fullmatch(r"(?:[\w .\-:/@+]|#\d+;)*", re.sub(r"[^\x00-\x7f]", "w", shown))
    drawn = re.sub(r"#(\d+);", lambda found: chr(int(found[1])), shown)
    assert drawn == plain(name, 300)


@few
@given(st.dictionaries(TEXT, TEXT, max_size=3))
def test_a_recipe_means_the_same_and_is_safe_to_look_at(values: dict[str, str]) -> None:
    if any("\ud800" <= character <= "\udfff" for text in values for character in text):
        return
    text = dump_yaml([values])
    assert is_plain(text, lines=True)
    assert yaml.safe_load(text) == values


@few
@given(TEXT, TEXT)
def test_json_for_programs_is_safe_to_look_at(name: str, other: str) -> None:
    value = {name: [other, {"name": name}]}
    text = plain_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert is_plain(text, lines=True)
    assert json.loads(text) == value


@few
@given(TEXT)
def test_a_lineage_is_a_tree_of_its_own_lines(name: str) -> None:
    found = _lineage(name)
    tree = render_lineage(found)
    assert is_plain(tree, lines=True)
    assert tree.count("\n") == len(render_lineage(_lineage("name")).splitlines())
    graph = lineage_mermaid(found)
    assert is_plain(graph, lines=True)
    assert graph.count("\n") == lineage_mermaid(_lineage("name")).count("\n")
    page = artifacts.as_graph(graph, tree)
    kinds = [token.type for token in MARKDOWN.parse(page)]
    assert kinds == ["fence", "fence"]


def test_rich_markup_and_emoji_in_a_name_are_letters(capsys: pytest.CaptureFixture[str]) -> None:
    name = "[red]a[/red] :bomb: [link=http://evil.example]x[/link] \\[bold]"
    Terminal().say(name)
    Terminal().warn(name)
    explain(MergeflowError(name, where=name))
    seen = capsys.readouterr()
    assert seen.out.strip() == name
    assert seen.err.count(name) == 3


# --- real commands -------------------------------------------------------------------------------


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


def _lineage(name: str) -> Lineage:
    merge = LineageMerge(
        run_id="r", method=name, recipe_digest="d", plan_digest="d", object_id="o", verdict=name
    )
    leaf = LineageNode(digest="1", reference=name, role="base", revision="r")
    root = LineageNode(digest="2", reference=name, role="version", merge=merge, inputs=(leaf,))
    return Lineage(
        model_uri=name, tracking_uri=name, name=name, version="1", aliases=(name,), root=root
    )


def _without_style(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
