"""The ancestry of a version as one HTML file, which asks no network and runs no script.

Each checkpoint is a block that links to what it was made of and to what was made of it. Blocks are
not nested: browsers stop nesting at some hundred levels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

from merge_core.findings import counted
from merge_core.text.plain import LONGEST, plain
from tasks.lineage.graph import Lineage, LineageMerge, LineageNode
from tasks.lineage.mermaid import short_title

_PAGE = Path(__file__).with_name("page.html")


def lineage_html(lineage: Lineage) -> str:
    """The ancestry as a self-contained page; every name in it is text."""
    used: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for item, node in lineage.edges():
        used[item.digest].append((item.role, node.digest))
    levels = lineage.levels()
    merges = sum(node.merge is not None for node in lineage.nodes)
    summary = (
        f"{counted(len(lineage.nodes), 'checkpoint')}, {counted(merges, 'merge')}, at most"
        f" {counted(max(levels.values()), 'merge')} deep. Recorded in {lineage.tracking_uri}."
    )
    articles = [_article(lineage, node, used[node.digest]) for node in lineage.nodes]
    return Template(_PAGE.read_text("utf-8")).substitute(
        title=_text(lineage.title), summary=_text(summary), articles="\n".join(articles)
    )


def _article(lineage: Lineage, node: LineageNode, used: Iterable[tuple[str, str]]) -> str:
    facts = [("digest", f"<code>{_text(node.digest)}</code>"), ("name", _text(node.reference))]
    facts += [("place", f"<code>{_text(node.path)}</code>")] if node.path is not None else []
    if node.revision is not None:
        facts.append(("revision", f"<code>{_text(node.revision)}</code>"))
    facts += _merge(node.merge) if node.merge else []
    made_of = [(item.role, item.digest) for item in node.inputs]
    facts += [("made of", _links(lineage, made_of))] if made_of else []
    listed = list(dict.fromkeys(used))
    facts += [("went into", _links(lineage, listed))] if listed else []
    rows = "\n".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
    state = ' class="deleted"' if node.merge and node.merge.deleted else ""
    return (
        f'<article id="{_anchor(node.digest)}"{state}>\n<h2>{_title(node)}</h2>\n'
        f"<dl>\n{rows}\n</dl>\n</article>"
    )


def _merge(merge: LineageMerge) -> list[tuple[str, str]]:
    if merge.deleted:
        said = "which was deleted in MLflow: what it was made of is not followed"
        return [("run", f"<code>{_text(merge.run_id)}</code>, {said}")]
    gain = "" if merge.gain is None else f", gain {merge.gain:+.2%}"
    facts = [
        ("recipe", f"<code>{_text(merge.recipe_digest)}</code>"),
        ("run", f"<code>{_text(merge.run_id)}</code>"),
        ("signed by key", _text(", ".join(key[:12] for key in merge.signed_by))),
        ("recorded", _text(" to ".join(filter(None, (merge.started, merge.ended))))),
        ("verdict", _text(merge.verdict.replace("_", " ") + gain)),
    ]
    if merge.suite:
        digest = f" <code>{_text(merge.suite_digest)}</code>" if merge.suite_digest else ""
        facts.append(("suite", _text(merge.suite) + digest))
    facts += [("unrelated", "weights of other origins were allowed")] * merge.allow_unrelated
    scores = [
        f"{score.task} {score.metric} {score.merged:.4f}"
        + ("" if score.base is None else f" (baseline {score.base:.4f})")
        for score in merge.scores
    ]
    return facts + ([("scores", _list(map(_text, scores)))] if scores else [])


def _links(lineage: Lineage, ends: Iterable[tuple[str, str]]) -> str:
    return _list(
        f'{_text(role)}: <a href="#{_anchor(digest)}">{_title(lineage.by_digest[digest])}</a>'
        for role, digest in ends
    )


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _title(node: LineageNode) -> str:
    return f"{_text(short_title(node))} <code>{_text(node.digest[:12])}</code>"


def _anchor(digest: str) -> str:
    return "d" + "".join(character for character in digest if character.isalnum())


def _text(text: str) -> str:
    return escape(plain(text, LONGEST))
