"""The part of the page about losses: along each task vector, and between models."""

from __future__ import annotations

from collections.abc import Sequence

from merge_core.findings import counted
from tasks.diagnosis.curves import Curve, Curves
from tasks.diagnosis.diagnosis import Diagnosis
from tasks.diagnosis.svg import Series, line_chart, text


def loss_part(found: Diagnosis) -> str:
    """Curves with intervals, barriers, and every score; or why there are none."""
    curves = found.curves
    if curves is None:
        return f"<section><h2>Loss along the way</h2><p>{text(found.no_curves)}</p></section>"
    pictures = [
        _picture(
            "Along each task vector: change against the base, in units (up is better)",
            "scale of the task vector: 0 is the base, 1 the model",
            [(found.names[curve.models[0]], curve, curve.models[0]) for curve in curves.scales],
        ),
        _picture(
            "Between two models: change against the base, in units (up is better)",
            "from the first (0) to the second (1)",
            [(_pair(found, curve), curve, k + 2) for k, curve in enumerate(curves.lines)],
        ),
    ]
    left = (
        f" {counted(curves.pairs_left_out, 'pair')} of models that are most alike were left out."
        if curves.pairs_left_out
        else ""
    )
    return (
        f"<section><h2>Loss along the way</h2><p>On {counted(curves.documents, 'document')} of the"
        f" search half of suite {text(curves.suite)}. A unit is how far the base's own documents"
        " lie apart; bars are intervals that are wrong, to either side, in at most 2.5 % of"
        f' evaluations.{left}</p><div class="pair">{"".join(pictures)}</div>'
        f"{_barriers(found, curves)}{_scores(found, curves)}</section>"
    )


def _picture(title: str, axis: str, named: Sequence[tuple[str, Curve, int]]) -> str:
    if not named:
        return ""
    places = [point.at for point in named[0][1].points]
    series = [
        Series(
            name,
            [point.change for point in curve.points],
            [
                None if point.low is None or point.high is None else (point.low, point.high)
                for point in curve.points
            ],
            colour,
        )
        for name, curve, colour in named
    ]
    labels = [f"{place:g}" for place in places]
    return line_chart(
        title, labels, series, at=places, axis=axis, told=lambda value: f"{value:+.3g}", ruler=0.0
    )


def _barriers(found: Diagnosis, curves: Curves) -> str:
    rows = "".join(
        f"<tr><td>{text(name)}</td><td>{barrier.height:+.3f}</td><td>{barrier.low:+.3f} to"
        f" {barrier.high:+.3f}</td><td>{barrier.at:g}</td><td class='text'>"
        f"{_said(barrier.low, barrier.high)}</td></tr>"
        for name, barrier in (
            (
                _pair(found, curve)
                if len(curve.models) > 1
                else f"base, {found.names[curve.models[0]]}",
                curve.barrier,
            )
            for curve in (*curves.lines, *curves.scales)
        )
        if barrier is not None
    )
    if not rows:
        return ""
    return (
        '<h3>Loss barriers</h3><div class="scroll"><table><tr><th>between</th><th>height in units'
        "</th><th>surely</th><th>at</th><th class='text'>meaning</th></tr>"
        f"{rows}</table></div>"
        '<p class="quiet">The highest loss above the straight line between the losses of both ends.'
        " Below 0 the way bends down: the mean is better than its ends would have it.</p>"
    )


def _said(low: float, high: float) -> str:
    if low > 0.0:
        return "a barrier"
    return "no barrier: one basin" if high < 0.0 else "none that these documents show"


def _scores(found: Diagnosis, curves: Curves) -> str:
    head = "".join(
        f"<th>{text(task.name)} {text(task.metric)} {'↑' if task.higher_is_better else '↓'}</th>"
        for task in curves.tasks
    )
    rows = []
    for curve in curves.curves:
        name = _pair(found, curve) if len(curve.models) > 1 else found.names[curve.models[0]]
        for point in curve.points:
            change = "-" if point.change is None else f"{point.change:+.3f}"
            mark = " (certainly below the best)" if point.below_best else ""
            cells = "".join(
                f"<td>{_score(point.scores.get(task.name))}</td>" for task in curves.tasks
            )
            why = f"<td class='text'>{text(point.why or mark.strip())}</td>"
            rows.append(
                f"<tr><td>{text(name)}</td><td>{point.at:g}</td><td>{change}</td>{cells}{why}</tr>"
            )
    return (
        '<details><summary>Every score</summary><div class="scroll"><table><tr><th>way</th><th>at'
        f"</th><th>change in units</th>{head}<th></th></tr>{''.join(rows)}</table></div></details>"
    )


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _pair(found: Diagnosis, curve: Curve) -> str:
    return " to ".join(found.names[index] for index in curve.models)
