"""The page about the architecture quotes the code: each quoted line is where the page says."""

from __future__ import annotations

import ast
import re

import pytest

from tests.architecture.measure import ROOT
from tests.architecture.picture import PAGE, PICTURE, drawn, layers_of, stops_of, words_of

_QUOTED = re.compile(r"^\| [^|]+ \| `([\w/]+\.py)`, `([\w.]+)` \| `([^`]+)` \|", re.M)
QUOTES = _QUOTED.findall(PAGE.read_text())


@pytest.mark.parametrize(("file", "function", "line"), QUOTES, ids=[q[0] for q in QUOTES])
def test_a_quoted_line_is_in_the_function_that_the_page_names(
    file: str, function: str, line: str
) -> None:
    assert line in _source(file, function)


def test_every_stop_of_the_walk_and_every_other_row_with_a_line_is_looked_at() -> None:
    walk, rest = PAGE.read_text().split("## From ")[1].split("## Where ")
    rows = [line for line in walk.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [row.split(" | ")[0] for row in rows] == [f"| {n}" for n in range(1, len(rows) + 1)]
    quoted_rows = [row for row in rest.splitlines() if row.count(" | ") == 3]
    assert len(QUOTES) == len(rows) + len(quoted_rows) - 1, "one row is a heading"


def test_the_picture_is_that_of_the_ladder_and_of_the_walk_today() -> None:
    assert PICTURE.read_text() == drawn(), "run python -m tests.architecture.picture"


def test_rooms_stops_and_words_are_in_the_picture() -> None:
    page, picture = PAGE.read_text(), PICTURE.read_text()
    assert "kernels" in picture
    assert words_of(page)["merge_core/engine"] in picture
    assert stops_of(page)["merge_core/kernels"] == ["6", "7", "8", "9", "10"]


def test_every_room_is_in_the_words_in_the_order_of_the_ladder() -> None:
    said = list(words_of(PAGE.read_text()))
    for package in ("flows", "tasks", "merge_core"):
        layers = [{f"{package}/{room}" for room in layer} for layer in layers_of(package)]
        of_package = [room for room in said if room.startswith(f"{package}/")]
        assert set(of_package) == set().union(*layers)
        height = {room: number for number, layer in enumerate(layers) for room in layer}
        assert of_package == sorted(of_package, key=lambda room: height[room])


def _source(file: str, named: str) -> str:
    text = (ROOT / file).read_text()
    owner, _, function = named.rpartition(".")
    tree = ast.parse(text)
    if owner:
        tree.body = [
            node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == owner
        ]
    return "\n".join(
        ast.get_source_segment(text, node) or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == function
    )
