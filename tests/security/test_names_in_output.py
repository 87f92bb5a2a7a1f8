"""Names that strangers choose are shown as names: on a terminal, in a tree, in a graph, on pages,
in a model card. First each place alone with any text at all, then commands with hostile models.
"""

from __future__ import annotations

import io
import json
import logging
import re

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from flows.steps import artifacts
from flows.terminal.console import Terminal, cell, explain
from merge_core.errors import MergeflowError, StepError, error_from, error_values
from merge_core.files.strict_yaml import dump_yaml
from merge_core.findings import Finding, printable, some
from merge_core.text.markdown import block, code, inline, mermaid_label, table
from merge_core.text.plain import LONGEST, plain, plain_json, plain_log
from tasks.lineage.graph import Lineage, LineageInput, LineageMerge, LineageNode
from tasks.lineage.html import lineage_html
from tasks.lineage.mermaid import lineage_mermaid
from tasks.lineage.text import render_lineage
from tests.support.hostile_names import MARKDOWN, TEXT, is_plain

few = settings(max_examples=60)
"""Enough for each place here: what they share is tried often enough by all of them."""


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
@example("0.")
@example("12)")
@example("-")
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
    html = lineage_html(found)
    assert html.count("<") == lineage_html(_lineage("name")).count("<")
    assert html.count(">") == lineage_html(_lineage("name")).count(">")
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


def _lineage(name: str) -> Lineage:
    merge = LineageMerge(
        run_id="r", method=name, recipe_digest="d", plan_digest="d", object_id="o", verdict=name
    )
    leaf = LineageNode(digest="1", reference=name, revision="r", path=name)
    used = LineageInput(digest="1", role="base", reference=name)
    root = LineageNode(digest="2", reference=name, merge=merge, inputs=(used,))
    return Lineage(
        model_uri=name,
        tracking_uri=name,
        name=name,
        version="1",
        aliases=(name,),
        root="2",
        nodes=(root, leaf),
    )


def _without_style(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
