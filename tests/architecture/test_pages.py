"""What the pages about the project name is there: links, files, modules, rooms' public names.

`make docs` checks the links too, with the names that its own pages give to headings.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.measure import PACKAGES, ROOT

ALL_PAGES = sorted(
    path
    for pattern in ("*.md", *(f"{top}/**/*.md" for top in ("docs", "examples", "configs")))
    for path in [*ROOT.glob(pattern), *ROOT.glob("benchmarks/parity/*.md")]
    if path.parent != ROOT / "docs" / "api"  # written by `make docs`
)
PAGES = [
    path
    for path in ALL_PAGES
    # Pages that tell of former commits name what was there then.
    if path.parent.name not in ("decisions", "readings") and path.name != "upgrading.md"
]
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)")
_FILE = re.compile(r"`((?:merge_core|tasks|flows|mergeflow|tests|benchmarks|configs)/[\w./-]+)`")
_MODULE = re.compile(rf"(?<![\w./-])((?:{'|'.join(PACKAGES)})(?:\.\w+)+)(?![\w(]*[/-])")
_PUBLIC = re.compile(r"Public: (.*?)\.(?:\s|$)", re.S)


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_that_is_there(page: Path) -> None:
    links = _LINK.findall(_without_code(page.read_text()))
    assert not [link for link in links if not _leads(page, *link)]


def test_the_order_of_pages_has_every_page_once() -> None:
    """Directories whose first page lists the others are named by that page."""
    index = ROOT / "docs" / "index.md"
    linked = [
        (index.parent / link).resolve() for link, _ in _LINK.findall(index.read_text()) if link
    ]
    assert len(linked) == len(set(linked))
    listed = {path.parent for path in linked if path.name == "README.md"} - {ROOT}
    elsewhere = {*linked, index, index.parent / "api" / "index.md"}
    assert not [page for page in ALL_PAGES if page not in elsewhere and page.parent not in listed]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    named = [name for name in _FILE.findall(text) if not re.search("[A-Z]{4}", name)]  # NAME.py
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_module_that_a_page_names_is_there(page: Path) -> None:
    named = [name for name in _MODULE.findall(page.read_text()) if not name.endswith(".py")]
    assert not [name for name in named if not _is_named(name)]


def test_what_a_room_calls_public_is_there() -> None:
    missing = [
        f"{room}: {name}"
        for room, names in _rooms()
        for name in names
        if not any(_is_named(f"{place}.{name}") for place in (room, *PACKAGES))
        and not (ROOT / name).is_dir()
    ]
    assert not missing


def test_a_name_that_is_not_there_is_noticed() -> None:
    assert _is_named("merge_core.recipes.loading.load_recipe")
    assert not _is_named("merge_core.recipes.loading.load_recipes")
    assert not _is_named("merge_core.recipe_of_old")
    assert not _leads(ROOT / "README.md", "docs/recipes.md", "no-such-heading")
    assert not _leads(ROOT / "README.md", "docs/recipe.md", "")
    assert _leads(ROOT / "README.md", "docs/recipes.md", "slices")
    assert _anchors("# A\n\n```\n# a comment\n```\n\n## A\n") == {"a", "a-1"}


def _leads(page: Path, link: str, anchor: str) -> bool:
    target = page.parent / link if link else page
    if target == ROOT / "docs" / "api" / "index.md":
        return True
    if not target.exists():
        return False
    return not anchor or target.suffix != ".md" or anchor in _anchors(target.read_text())


def _anchors(text: str) -> set[str]:
    """What a heading is called in an address, as the places that show Markdown do it."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", _without_code(text), re.M):
        plain = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        again = [name, *(f"{name}-{number}" for number in range(1, 100))]
        found.add(next(each for each in again if each not in found))
    return found


def _without_code(text: str) -> str:
    """The text without fenced blocks: a `#` there begins a comment, a bracket is no link."""
    return re.sub(r"^(```+).*?^\1$", "", text, flags=re.M | re.S)


def _rooms() -> Iterator[tuple[str, list[str]]]:
    """Each room with the names that its words call public."""
    for package in PACKAGES:
        for front in sorted((ROOT / package).rglob("__init__.py")):
            words = ast.get_docstring(ast.parse(front.read_text())) or ""
            public = _PUBLIC.search(words)
            names = re.findall(r"`([\w.]+)`", public[1]) if public else []
            yield ".".join(front.parent.relative_to(ROOT).parts), names


def _is_named(name: str) -> bool:
    """Whether a dotted name is a module or something that a module defines or imports."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:count])
        module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if module.is_file():
            return count == len(parts) or parts[count] in _defined(module)
    return False


def _defined(module: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
    return names
