"""A line chart as inline SVG: no script, no download, colours by the page's style."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from merge_core.text.plain import plain

_WIDTH, _HEIGHT = 560, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 40
_COLOURS = 8
_MOST_LABELS = 12


@dataclass(frozen=True)
class Series:
    """One line: values by place on the x axis, None where there is none."""

    name: str
    values: Sequence[float | None]
    intervals: Sequence[tuple[float, float] | None] = ()
    colour: int = 0


def line_chart(
    title: str,
    labels: Sequence[str],
    series: Sequence[Series],
    *,
    at: Sequence[float] | None = None,
    axis: str = "",
    told: Callable[[float], str] = lambda value: f"{value:g}",
    ruler: float | None = None,
) -> str:
    """A figure with its title, its lines and their names.

    Args:
        labels: of the places on the x axis.
        at: where they are; by default evenly spaced.
        axis: what the x axis is.
        told: a value in words, for the y axis and what a pointer shows.
        ruler: a value to draw a line at.
    """
    places = list(at) if at is not None else [float(k) for k in range(len(labels))]
    low, high = _range([*series], ruler)
    frame = _Frame(places, low, high)
    parts = [_grid(frame, told), _ticks(frame, labels)]
    if ruler is not None and low <= ruler <= high:
        y = frame.y(ruler)
        parts.append(f'<path class="ruler" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
    parts += [_line(frame, each, labels, told) for each in series]
    named = "".join(
        f'<span class="swatch"><i class="c{each.colour % _COLOURS}"></i>{text(each.name)}</span>'
        for each in series
    )
    middle = (_LEFT + _WIDTH) / 2
    below = f'<text x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">{text(axis)}</text>'
    return (
        f"<figure><figcaption>{text(title)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(title)}">'
        f'{"".join(parts)}{below}</svg><p class="key">{named}</p></figure>'
    )


def percent(value: float) -> str:
    """A share, with three digits at most."""
    return f"{100 * value:.3g} %"


def text(value: object) -> str:
    """A stranger's text as HTML's."""
    return escape(plain(value))


class _Frame:
    """From values to places in the picture."""

    def __init__(self, places: Sequence[float], low: float, high: float) -> None:
        self.places, self.low, self.high = places, low, high
        self._first, self._last = min(places), max(places)

    def x(self, index: int) -> float:
        inner, span = _WIDTH - _LEFT - _RIGHT - 16, self._last - self._first
        share = (self.places[index] - self._first) / span if span else 0.5
        return _LEFT + 8 + share * inner

    def y(self, value: float) -> float:
        inner = _HEIGHT - _TOP - _BOTTOM
        return _TOP + (self.high - value) / (self.high - self.low) * inner


def _range(series: Sequence[Series], ruler: float | None) -> tuple[float, float]:
    values = [v for each in series for v in each.values if v is not None]
    values += [end for each in series for pair in each.intervals if pair for end in pair]
    values += [ruler] if ruler is not None else []
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low >= 0.0 and low < 0.6 * high:
        low = 0.0
    room = 0.06 * (high - low) or abs(high) or 1.0
    return low - (room if low else 0.0), high + room


def _grid(frame: _Frame, told: Callable[[float], str]) -> str:
    step = _step(frame.high - frame.low)
    first = math.ceil(frame.low / step)
    found = []
    for count in range(first, math.floor(frame.high / step) + 1):
        value, y = count * step, frame.y(count * step)
        found.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        label = text(told(value))
        found.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    return "".join(found)


def _ticks(frame: _Frame, labels: Sequence[str]) -> str:
    every = -(-len(labels) // _MOST_LABELS)
    return "".join(
        f'<text x="{frame.x(k):.1f}" y="{_HEIGHT - 22}" text-anchor="middle">{text(label)}</text>'
        for k, label in enumerate(labels)
        if k % every == 0
    )


def _line(
    frame: _Frame, series: Series, labels: Sequence[str], told: Callable[[float], str]
) -> str:
    look, way, marks, begun = f"c{series.colour % _COLOURS}", [], [], False
    for k, value in enumerate(series.values):
        if value is None:
            begun = False
            continue
        x, y = frame.x(k), frame.y(value)
        way.append(f"{'L' if begun else 'M'}{x:.1f} {y:.1f}")
        begun = True
        ends = series.intervals[k] if k < len(series.intervals) else None
        said = told(value) + (f" ({told(ends[0])} to {told(ends[1])})" if ends else "")
        if ends:
            high, low = frame.y(ends[1]), frame.y(ends[0])
            marks.append(f'<path class="whisker {look}" d="M{x:.1f} {high:.1f}V{low:.1f}"/>')
        title = f"<title>{text(series.name)}, {text(labels[k])}: {text(said)}</title>"
        marks.append(f'<circle class="{look}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">{title}</circle>')
    return f'<path class="line {look}" d="{"".join(way)}"/>{"".join(marks)}'


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten: four to eight of them in a span."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next(digit * power for digit in (10, 5, 2, 1) if span / (digit * power) >= 4)
