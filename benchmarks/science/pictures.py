"""The panels of a chapter as one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.science.chapters import Panel
from tasks.reports.figures import GRID, INK, default_style, small_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DPI = 120


def picture(panels: Sequence[Panel]) -> bytes:
    """All panels side by side, error bars of one standard error. A PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with default_style():
        figure = Figure(figsize=(5.2 * len(panels), 4.0), dpi=_DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        for axes, panel in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            _draw(axes, panel)
        canvas.draw()
        return small_png(canvas)


def _draw(axes: Axes, panel: Panel) -> None:
    if panel.reference:
        axes.axhline(0.0, color=INK, lw=0.9, ls=(0, (4, 3)))
    if all(isinstance(each, str) for each in panel.across):
        _bars(axes, panel)
    else:
        _lines(axes, panel)
    title = panel.title + (f"\n(0: {panel.reference})" if panel.reference else "")
    axes.set_title(title, loc="left", fontsize=10.5, color=INK)
    axes.set_xlabel(panel.x, fontsize=9.5, color=INK)
    axes.set_ylabel(panel.y, fontsize=9.5, color=INK)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, color="#999999", labelcolor=INK)
    if len(panel.series) + len(panel.unmeasured) > 1:
        axes.legend(fontsize=8.5, frameon=False, labelcolor=INK)


def _lines(axes: Axes, panel: Panel) -> None:
    places = [float(each) for each in panel.across]
    # Series stand a little apart, so that no error bar hides another.
    apart = 0.008 * (max(places) - min(places))
    for index, (name, found) in enumerate(panel.series.items()):
        aside = apart * (index - (len(panel.series) - 1) / 2)
        axes.errorbar(
            [place + aside for place in places],
            [each.mean for each in found],
            yerr=[each.error for each in found],
            color=_COLOURS[index % len(_COLOURS)],
            marker=_MARKERS[index % len(_MARKERS)],
            ms=4.5,
            lw=1.6,
            capsize=2.5,
            label=name,
        )
    for name, numbers in panel.unmeasured.items():
        axes.plot(places, numbers, color="#7a7a7a", lw=1.2, ls=":", label=name)
    axes.set_xticks(places, [f"{each:g}" for each in places])


def _bars(axes: Axes, panel: Panel) -> None:
    width = 0.8 / len(panel.series)
    for index, (name, found) in enumerate(panel.series.items()):
        left = -0.4 + width * (index + 0.5)
        axes.bar(
            [place + left for place in range(len(panel.across))],
            [each.mean for each in found],
            width * 0.92,
            yerr=[each.error for each in found],
            color=_COLOURS[index % len(_COLOURS)],
            error_kw={"capsize": 2.5, "lw": 1.1, "ecolor": INK},
            label=name,
        )
    axes.set_xticks(range(len(panel.across)), [str(each) for each in panel.across])
