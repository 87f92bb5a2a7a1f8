"""The table and the plot of a comparison."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable
from pathlib import Path

from contest import TO_DISK, Cost

Costs = dict[str, dict[str, list[Cost]]]
"""By method, then by contender, one for each round."""


def table(costs: Costs) -> str:
    """Medians as Markdown, with ratios to the floor and to mergekit."""
    columns = [
        "method",
        "floor s",
        "engine s",
        "engine / floor",
        "to disk: floor s",
        "engine s",
        "engine / floor",
        "mergeflow s",
        "first s",
        "mergekit s",
        "mergekit / mergeflow",
        "mergekit / engine",
        "CPU s",
        "peak MB",
    ]
    text = "| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|\n"
    for method, by in costs.items():
        floor, engine = _median(by, "floor", _own), _median(by, "engine", _own)
        durable = [_median(by, name + TO_DISK, _own) for name in ("floor", "engine")]
        ours, theirs = _median(by, "mergeflow", _wall), _median(by, "mergekit", _wall)
        more = ">" if any(cost.timed_out for cost in by.get("mergekit", [])) else ""
        peaks = [c.peak for name in ("mergeflow", "first") for c in by.get(name, [])]
        row = [
            method,
            _number(floor),
            _number(engine),
            _number(_ratio(engine, floor), 2),
            _number(durable[0]),
            _number(durable[1]),
            _number(_ratio(durable[1], durable[0]), 2),
            _number(ours),
            _number(_median(by, "first", _wall)),
            more + _number(theirs) if theirs else "",
            more + _number(_ratio(theirs, ours)) if theirs else "",
            more + _number(_ratio(theirs, engine)) if theirs else "",
            _number(_median(by, "mergeflow", lambda cost: cost.cpu)),
            f"{max(peaks):.0f}" if peaks else "",
        ]
        text += "| " + " | ".join(row) + " |\n"
    return text


def plot(costs: Costs, path: Path, title: str) -> None:
    """Bars of every contender's seconds, method by method; logarithmic if they differ widely."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    end = "" if any("floor" in by for by in costs.values()) else TO_DISK
    shown = [
        ("floor" + end, f"the floor: reads and writes alone{end}", _own, "#9aa5b1"),
        ("engine" + end, f"mergeflow's engine{end}", _own, "#2f6fdb"),
        ("mergeflow", "mergeflow merge (whole process)", _wall, "#7fb0ff"),
        ("mergekit", "mergekit (whole process)", _wall, "#e08a3c"),
    ]
    shown = [bar for bar in shown if any(bar[0] in by for by in costs.values())]
    figure, axes = pyplot.subplots(figsize=(10, 4.2))
    drawn: list[float] = []
    for place, (contender, label, of, colour) in enumerate(shown):
        heights = [_median(by, contender, of) or 0.0 for by in costs.values()]
        drawn += [height for height in heights if height]
        where = [index + 0.2 * (place - (len(shown) - 1) / 2) for index in range(len(costs))]
        axes.bar(where, heights, width=0.19, label=label, color=colour)
    if max(drawn) > 10 * min(drawn):
        axes.set_yscale("log")
    axes.set_xticks(range(len(costs)), list(costs))
    axes.set_ylabel("seconds")
    axes.set_title(textwrap.fill(title, 110), loc="left", fontsize=9)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def _wall(cost: Cost) -> float:
    return cost.wall


def _own(cost: Cost) -> float:
    return cost.own or 0.0


def _median(by: dict[str, list[Cost]], contender: str, of: Callable[[Cost], float]) -> float | None:
    costs = by.get(contender)
    return statistics.median(of(cost) for cost in costs) if costs else None


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"
