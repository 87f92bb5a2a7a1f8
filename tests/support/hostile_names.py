"""Names that try to be more than names, and whether a text only draws."""

from __future__ import annotations

import unicodedata

from hypothesis import strategies as st
from markdown_it import MarkdownIt

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

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
COMMANDS = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def is_plain(text: str, lines: bool = False) -> bool:
    """Whether a terminal would draw a text and do nothing else."""
    kept = text.replace("\n", "") if lines else text
    return not any(unicodedata.category(character) in COMMANDS for character in kept)
