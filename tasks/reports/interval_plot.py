"""The picture of a decision: every interval against what it has to clear, as one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from merge_core.text.plain import plain
from tasks.records import Decision, Outcome
from tasks.reports.figures import GRID, INK, default_style, small_png
from tasks.reports.intervals import Panel, Row, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS: dict[Outcome, str] = {"held": "#009e73", "unclear": "#b8860b", "regressed": "#c1272d"}
_MARKERS: dict[Outcome, str] = {"held": "o", "unclear": "D", "regressed": "X"}
_FORBIDDEN = "#f6dcdc"
_DPI = 120
_ROW_INCHES, _PANEL_INCHES = 0.34, 0.95
_MOST_ROWS = 40
"""Of one panel; the gravest are drawn."""
_LONGEST_LABEL = 44
_GRAVEST: tuple[Outcome, ...] = ("regressed", "unclear", "held")


def decision_png(decision: Decision) -> bytes | None:
    """The picture; None where there is nothing to draw."""
    return _drawn(tuple(panels(decision)))


@lru_cache(maxsize=4)
def _drawn(found: tuple[Panel, ...]) -> bytes | None:
    if not found:
        return None
    with default_style():
        return _figure(found)


def _figure(found: Sequence[Panel]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shown = [_some(panel.rows) for panel in found]
    heights = [_PANEL_INCHES + _ROW_INCHES * len(rows) for rows in shown]
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.06, hspace=0.03)
    figure = Figure(figsize=(10.0, sum(heights) + 0.35), dpi=_DPI, layout=layout)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(found), 1, height_ratios=heights, squeeze=False)
    for place, panel, rows in zip(axes[:, 0], found, shown, strict=True):
        _draw(place, panel, rows)
    figure.supxlabel(
        "A bar is where the truth surely is; to pass, all of it has to be right of the red line."
        "   ● passes   ◆ cannot tell   ✖ refused",
        fontsize=9,
        color=INK,
    )
    canvas.draw()
    return small_png(canvas)


def _draw(axes: Axes, panel: Panel, rows: Sequence[Row]) -> None:
    ends = [end for row in rows for end in (row.low, row.high, row.limit, row.value)]
    low, high = min(*ends, 0.0), max(*ends, 0.0)
    room = 0.06 * (high - low or 1.0)
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    for place, row in enumerate(rows):
        colour = _COLOURS[row.outcome]
        axes.fill_betweenx(
            [place - 0.42, place + 0.42], low - room, row.limit, color=_FORBIDDEN, linewidth=0
        )
        axes.plot([row.limit] * 2, [place - 0.42, place + 0.42], color="#a04040", linewidth=1.4)
        axes.plot([row.low, row.high], [place] * 2, color=colour, linewidth=2.6)
        axes.plot([row.value], [place], _MARKERS[row.outcome], color=colour, markersize=7)
        axes.annotate(
            row.said,
            (1.0, place),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=colour,
        )
    axes.set_yticks(range(len(rows)), [_clipped(plain(row.label)) for row in rows], fontsize=9)
    axes.axvline(0.0, color=INK, linewidth=0.8, zorder=0)
    left = len(panel.rows) - len(rows)
    title = f"{panel.title} ({left} rows that pass are not shown)" if left else panel.title
    axes.set_title(title, fontsize=11, loc="left", color=INK, fontweight="bold")
    axes.set_xlabel(panel.axis, fontsize=9, color=INK)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)


def _some(rows: Sequence[Row]) -> list[Row]:
    """All rows in their order, or the gravest of them."""
    gravest = sorted(range(len(rows)), key=lambda place: _GRAVEST.index(rows[place].outcome))
    return [rows[place] for place in sorted(gravest[:_MOST_ROWS])]


def _clipped(label: str) -> str:
    if len(label) <= _LONGEST_LABEL:
        return label
    half = _LONGEST_LABEL // 2 - 1
    return f"{label[:half]}…{label[-half:]}"
