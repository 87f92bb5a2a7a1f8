"""The ancestry of a version as a plain text tree."""

from __future__ import annotations

from merge_core.text.plain import plain
from tasks.lineage.graph import Lineage, LineageMerge, LineageNode

_DEEPEST = 16
"""Levels that are drawn beside each other; deeper ones begin anew at the left."""


def render_lineage(lineage: Lineage) -> str:
    """The ancestry as a plain text tree, digests in full."""
    lines = [plain(lineage.title)]
    shown: dict[str, str] = {}
    pending: list[tuple[str, str]] = [(lineage.root, "")]
    while pending:
        digest, heading = pending.pop(0)
        if heading:
            lines += ["", heading]
        pending += _tree(lineage, digest, bool(heading), shown, lines)
    return "\n".join(lines) + "\n"


def _tree(
    lineage: Lineage, root: str, continued: bool, shown: dict[str, str], lines: list[str]
) -> list[tuple[str, str]]:
    """Draw one block; digests that were too deep for it come back, each with its heading.

    Args:
        shown: digests whose ancestors are drawn, and where: `above` or `below`.
    """
    later: list[tuple[str, str]] = []
    by_digest = lineage.by_digest
    # role and name, digest, what comes before the first line and before the others, depth
    stack: list[tuple[str | None, str, str, str, int]] = []
    stack.append((None if continued else by_digest[root].reference, root, "", "", 0))
    while stack:
        name, digest, lead, indent, depth = stack.pop()
        node = by_digest[digest]
        if name is not None:
            lines.append(f"{lead}{plain(name)}")
        repeated = digest in shown and not (continued and depth == 0)
        too_deep = depth == _DEEPEST and bool(node.inputs) and not repeated
        drawn = not repeated and not too_deep and bool(node.inputs)
        details = _details(node, shown[digest] if repeated else None)
        if not repeated:
            shown[digest] = "below" if too_deep else "above"
        if too_deep:
            details.append("(its ancestry continues below)")
            later.append((digest, f"ancestry of {digest}:"))
        if name is not None:
            stem = "│ " if drawn else "  "
            lines += [f"{indent}{stem}{plain(detail)}" for detail in details]
        if drawn:
            ends = [False] * (len(node.inputs) - 1) + [True]
            stack += [
                (
                    f"{item.role}: {item.reference}",
                    item.digest,
                    indent + ("└─ " if last else "├─ "),
                    indent + ("   " if last else "│  "),
                    depth + 1,
                )
                for item, last in reversed(list(zip(node.inputs, ends, strict=True)))
            ]
    return later


def _details(node: LineageNode, shown: str | None) -> list[str]:
    merge = node.merge
    kind = f"{merge.method} merge" if merge else "checkpoint"
    details = [f"{kind}, digest {node.digest}"]
    if node.revision:
        details.append(f"revision {node.revision}")
    if merge is None:
        return details
    if shown is not None:
        return [*details, f"(its ancestry is shown {shown})"]
    return details + _merge_lines(merge)


def _merge_lines(merge: LineageMerge) -> list[str]:
    run = f"run {merge.run_id}"
    if merge.deleted:
        return [f"{run}, which was deleted in MLflow: what it was made of is not followed"]
    lines = [f"recipe {merge.recipe_digest}", run]
    if merge.started:
        lines.append(f"recorded {merge.started}" + (f" to {merge.ended}" if merge.ended else ""))
    for key in merge.signed_by:
        lines.append(f"signed by key {key[:12]}, as the run says")
    if merge.allow_unrelated:
        lines.append("unrelated weights were allowed (allow_unrelated)")
    gain = "" if merge.gain is None else f", gain {merge.gain:+.2%}"
    lines.append(f"verdict {merge.verdict.replace('_', ' ')}{gain}")
    if merge.suite:
        digest = f", digest {merge.suite_digest}" if merge.suite_digest else ""
        lines.append(f"tested on the suite {merge.suite}{digest}")
    for score in merge.scores:
        base = "" if score.base is None else f" (baseline {score.base:.4f})"
        lines.append(f"{score.task} {score.metric} {score.merged:.4f}{base}")
    return lines
