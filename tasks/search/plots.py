"""The pictures of a search: its curve with intervals, what mattered, the front between tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from merge_core.text.plain import plain
from tasks.reports.figures import GRID, INK, default_style, small_png
from tasks.search.selection import best, pareto_front
from tasks.search.trial import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 120
_WHOLE, _LOST, _BEST = "#0072b2", "#b0b0b0", "#d55e00"
_MOST_PANELS, _MOST_TICKS = 6, 12
_AXIS = "change against the base, in units"


def sweep_png(trials: Sequence[Trial]) -> bytes | None:
    """The objective over each knob's numbers, or over the trials; None without a trial."""
    shown = [trial for trial in trials if trial.result.objective is not None]
    if not shown:
        return None
    knobs = list(dict.fromkeys(name for trial in shown for name in trial.values))
    numeric = [name for name in knobs if len({_number(t.values.get(name)) for t in shown}) > 2]
    return _drawn(
        [lambda axes, name=name: _over(axes, shown, name) for name in numeric[:_MOST_PANELS]]
        + ([] if len(numeric) == 1 else [lambda axes: _over(axes, shown, None)])
    )


def importance_png(importances: Mapping[str, float]) -> bytes | None:
    """How much each knob explains; None where one alone, or none, is known."""
    if len(importances) < 2:
        return None
    return _drawn([lambda axes: _bars(axes, importances)])


def pareto_png(trials: Sequence[Trial]) -> bytes | None:
    """The trials that saw every document, between the first two tasks; None with a single task."""
    seen = [trial for trial in trials if trial.result.outcome == "whole"]
    whole = [trial for trial in seen if len(trial.result.tasks) > 1]
    if not whole:
        return None
    return _drawn([lambda axes: _front(axes, whole)])


def _drawn(panels: Sequence[Any]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with default_style():
        figure = Figure(figsize=(8.0, 3.4 * len(panels)), dpi=_DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        for axes, draw in zip(
            figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True
        ):
            draw(axes)
        canvas.draw()
        return small_png(canvas)


def _over(axes: Axes, trials: Sequence[Trial], knob: str | None) -> None:
    winner = best(trials)
    for trial in trials:
        at = _at(trial, knob)
        result = trial.result
        if at is None or result.objective is None:
            continue
        colour = _WHOLE if result.outcome == "whole" else _LOST
        colour = _BEST if trial == winner else colour
        if result.low is not None and result.high is not None:
            axes.plot([at, at], [result.low, result.high], color=colour, lw=1.6)
        marker = "o" if result.outcome == "whole" else "x"
        axes.plot([at], [result.objective], marker, color=colour, ms=6)
    axes.axhline(0.0, color=INK, lw=0.8, ls=(0, (4, 3)))
    axes.set_ylabel(_AXIS, fontsize=9, color=INK)
    _finish(axes, "by trial" if knob is None else plain(knob))
    tried = sorted({at for trial in trials if (at := _at(trial, knob)) is not None})
    apart = min((b - a for a, b in pairwise(tried)), default=0.0)
    if tried and apart * _MOST_TICKS >= tried[-1] - tried[0]:  # a sweep's values, none between them
        axes.set_xticks(tried, [f"{at:g}" for at in tried])
    if knob is None:
        axes.set_xlabel("trial; grey: lost before its last document", fontsize=9, color=INK)


def _at(trial: Trial, knob: str | None) -> float | None:
    return float(trial.number) if knob is None else _number(trial.values.get(knob))


def _bars(axes: Axes, importances: Mapping[str, float]) -> None:
    names = list(importances)[::-1]
    axes.barh([plain(name) for name in names], [importances[name] for name in names], color=_WHOLE)
    axes.set_xlim(0.0, 1.0)
    _finish(axes, "share of the differences between trials that a parameter explains")


def _front(axes: Axes, trials: Sequence[Trial]) -> None:
    first, second = list(trials[0].result.tasks)[:2]
    front = pareto_front(trials)
    numbers = {trial.number for trial in front}
    for trial in trials:
        colour = _BEST if trial.number in numbers else _LOST
        at = trial.result.tasks
        axes.plot([at[first]], [at[second]], "o", color=colour, ms=6)
    line = sorted((trial.result.tasks[first], trial.result.tasks[second]) for trial in front)
    axes.plot([x for x, _ in line], [y for _, y in line], color=_BEST, lw=1.2)
    for draw in (axes.axhline, axes.axvline):
        draw(0.0, color=INK, lw=0.8, ls=(0, (4, 3)))
    axes.set_xlabel(f"{plain(first)}: {_AXIS}", fontsize=9, color=INK)
    axes.set_ylabel(plain(second), fontsize=9, color=INK)
    _finish(axes, "between two tasks; orange: no other trial is better in one and as good in all")


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=11, loc="left", color=INK)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None  # type: ignore[arg-type]
