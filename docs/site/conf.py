"""Builds the pages of this project into one site: `make docs`.

`docs/index.md` says which pages there are and in which order; the API pages come from the
docstrings. Sphinx warns of a link or an anchor that leads nowhere, and of a page that the order
lacks; `make docs` fails on a warning.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))

import api_pages

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]

project = "mergeflow"
html_title = "mergeflow"
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "examples/*.md", "benchmarks/parity/*.md"]
exclude_patterns = [".*", "docs/site", "build", "dist", "**/.*"]

extensions = ["myst_parser"]
myst_heading_anchors = 4
"""Headings can be linked to by GitHub's names for them."""
add_module_names = False
suppress_warnings = ["ref.python"]
"""Several rooms have a type of one name; a signature says the name alone."""

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False

_SECTION = re.compile(r"^## (.+)$", re.M)
_PAGE = re.compile(r"\[([^]]+)\]\(([^):#]+)\.md\)")


def setup(app: Sphinx) -> None:
    """Sphinx calls this first."""
    api_pages.write(ROOT / "docs" / "api")
    app.connect("source-read", _add_order)
    app.connect("build-finished", _add_front_door)


def _add_order(app: Sphinx, page: str, source: list[str]) -> None:
    """Give Sphinx the order of the pages, which other readers see in the page's own links."""
    if page == root_doc:
        _, *sections = _SECTION.split(source[0])
        for heading, text in zip(sections[::2], sections[1::2], strict=True):
            pages = [f"{title} <{place}>" for title, place in _PAGE.findall(text)]
            source[0] += _toctree(pages, f":caption: {heading}\n:hidden:")
    elif page in ("docs/decisions/README", "docs/readings/README"):
        source[0] += _toctree(["*"], ":glob:\n:maxdepth: 1")


def _toctree(pages: list[str], options: str) -> str:
    return "\n\n```{toctree}\n" + options + "\n\n" + "\n".join(pages) + "\n```\n"


def _add_front_door(app: Sphinx, error: Exception | None) -> None:
    """The site's first page lies in `docs`; who opens the site's directory is led there."""
    if error is None:
        (Path(app.outdir) / "index.html").write_text(
            '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html">\n'
        )
