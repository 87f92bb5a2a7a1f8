"""Markdown that is written here: text of strangers in it is text, whatever it looks like.

Pages of Prefect and MLflow, model cards and forms are made of it. Each of their readers differs a
little; what is escaped here is so in CommonMark, in GitHub's and in MLflow's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from merge_core.text.plain import plain

_LONGEST_CELL = 300
_LINK = re.compile(r"(?i)\b(https?|ftp|mailto|javascript|data):|\b(www)\.")
_START = re.compile(r"(?:[#>]|[-+*=](?=\s|$)|[-=]{2,}|\d{1,9}[.)](?=\s|$))")
_WORD = r"[^\W_]"
_EDGE = re.compile(rf"(?<!{_WORD})_|_(?!{_WORD})")


class Markdown(str):
    """Text that is Markdown already, for a cell of a table."""


def inline(text: object, limit: int = _LONGEST_CELL) -> Markdown:
    """A text as part of a line: no markup, no HTML, no link, no cell's or line's end."""
    shown = plain(text, limit).strip()
    shown = re.sub(r"([\\`*\[\]|])", r"\\\1", shown)
    shown = re.sub(r"&(?=[#A-Za-z])", "&amp;", shown).replace("<", "&lt;").replace(">", "&gt;")
    shown = _EDGE.sub(r"\\_", shown)
    shown = _LINK.sub(lambda found: f"{found[1]}\\:" if found[1] else f"{found[2]}\\.", shown)
    for pair in "~$":  # struck through; a formula
        if shown.count(pair) > 1:
            shown = shown.replace(pair, f"\\{pair}")
    start = _START.match(shown)
    if start:
        at = start.end() - 1 if shown[0].isdigit() else 0
        shown = f"{shown[:at]}\\{shown[at:]}"
    return Markdown(shown)


def code(text: object, limit: int = _LONGEST_CELL) -> Markdown:
    """A text in the type of code, in a table too."""
    shown = plain(text, limit).replace("|", "\\|")
    fence = "`" * (_longest_run(shown) + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") or not shown else ""
    return Markdown(f"{fence}{pad}{shown}{pad}{fence}")


def block(text: str, language: str = "") -> str:
    """A text of several lines as a block of code that only its own end ends."""
    fence = "`" * max(3, _longest_run(text) + 1)
    end = "" if text.endswith("\n") else "\n"
    return f"{fence}{language}\n{text}{end}{fence}\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str]) -> list[str]:
    """The lines of a table; columns that are named in `left` to the left, numbers to the right."""
    rule = ["---" if column in left else "---:" for column in head]
    return [_line(head), "| " + " | ".join(rule) + " |", *map(_line, rows)]


def mermaid_label(text: object) -> str:
    """A text that mermaid reads as a label: entities for what it would parse."""
    return "".join(
        char if char.isalnum() or char in " .-_:/@+" else f"#{ord(char)};"
        for char in plain(text, _LONGEST_CELL)
    )


def _line(cells: Sequence[str]) -> str:
    ready = (
        cell == "-" or isinstance(cell, Markdown) for cell in cells
    )  # no list begins in a cell
    shown = [
        cell if is_ready else inline(cell) for cell, is_ready in zip(cells, ready, strict=True)
    ]
    return "| " + " | ".join(shown) + " |"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
