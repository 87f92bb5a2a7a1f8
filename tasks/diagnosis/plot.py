"""The curves of a diagnosis as a PNG: pages in Prefect show no SVG of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from merge_core.text.plain import plain
from tasks.diagnosis.curves import Curve
from tasks.diagnosis.diagnosis import Diagnosis
from tasks.reports.figures import GRID, INK, default_style, small_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b0578d", "#b07d00", "#3b8fc2", "#6b7280", "#111111")
_DPI = 110


def curves_png(found: Diagnosis) -> bytes | None:
    """Along each task vector, and between models; None where nothing was evaluated."""
    curves = found.curves
    kinds = (curves.scales, curves.lines) if curves else ()
    panels = [each for each in kinds if each]
    if not panels:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with default_style():
        figure = Figure(figsize=(4.8 * len(panels), 3.4), dpi=_DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        for axes, shown in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            _draw(axes, found, shown)
        canvas.draw()
        return small_png(canvas)


def _draw(axes: Axes, found: Diagnosis, curves: Sequence[Curve]) -> None:
    of_pairs = len(curves[0].models) > 1
    for k, curve in enumerate(curves):
        known = [point for point in curve.points if point.change is not None]
        places = [point.at for point in known]
        changes = [point.change or 0.0 for point in known]
        below = [(point.change or 0.0) - (point.low or 0.0) for point in known]
        above = [(point.high or 0.0) - (point.change or 0.0) for point in known]
        name = plain(" to ".join(found.names[index] for index in curve.models), 40)
        colour = _COLOURS[(k + 2 * of_pairs) % len(_COLOURS)]
        axes.errorbar(
            places, changes, (below, above), color=colour, lw=1.6, marker="o", ms=4, label=name
        )
    axes.axhline(0.0, color=INK, lw=0.8, ls=(0, (4, 3)))
    axes.set_title(
        "Between two models" if of_pairs else "Along each task vector",
        loc="left",
        fontsize=11,
        color=INK,
    )
    axes.set_xlabel("from the first (0) to the second (1)" if of_pairs else "scale")
    axes.set_ylabel("change in units (up is better)")
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, labelcolor=INK)
    axes.legend(fontsize=9, frameon=False, labelcolor=INK)
