"""A diagnosis as markdown for the run's page: what to do, and the numbers that say it."""

from __future__ import annotations

import base64

from merge_core.text.markdown import block, code, inline, table
from merge_core.text.plain import LONGEST
from tasks.diagnosis.curves import Curve
from tasks.diagnosis.diagnosis import NOTHING, Diagnosis


def diagnosis_markdown(
    found: Diagnosis, search: str | None, place: str, picture: bytes | None = None
) -> str:
    """Advice, curves and barriers as tables.

    Args:
        search: the file of a search to start from.
        place: of the page with pictures and playground.
        picture: of the curves, a PNG.
    """
    lines = [
        f"## Diagnosis of {inline(found.name)}",
        "",
        f"The page with pictures and the playground is {code(place, LONGEST)}.",
        "",
    ]
    lines += [
        f"* **{inline(each.do, LONGEST)}** ({each.sure}): {inline(each.because, LONGEST)}."
        f" Source: {inline(each.source, LONGEST)}."
        for each in found.advice
    ] or [NOTHING]
    if found.curves is None:
        lines += ["", inline(found.no_curves, LONGEST)]
    else:
        lines += ["", "### Loss along the way", ""]
        if picture is not None:
            inside = base64.b64encode(picture).decode()
            lines += [f"![loss along the way](data:image/png;base64,{inside})", ""]
        lines += [*_curves(found), ""]
        lines += [
            f"Changes against the base in units, on {found.curves.documents} documents of the"
            f" search half of {inline(found.curves.suite)}. Barrier: the highest loss above the"
            " line between 0 and 1, with its interval."
        ]
    if search is not None:
        lines += ["", "### A search to start from", "", block(search, "yaml")]
    return "\n".join(lines) + "\n"


def way_of(found: Diagnosis, curve: Curve) -> str:
    """A path in words."""
    return " to ".join(found.names[index] for index in curve.models)


def barrier_said(curve: Curve) -> str:
    """Its barrier with the interval."""
    barrier = curve.barrier
    if barrier is None:
        return "-"
    return f"{barrier.height:+.3f} ({barrier.low:+.3f} to {barrier.high:+.3f})"


def _curves(found: Diagnosis) -> list[str]:
    curves = found.curves.curves if found.curves else ()
    places = sorted({point.at for curve in curves for point in curve.points})
    rows = []
    for curve in curves:
        known = {point.at: point.change for point in curve.points}
        changes = [known.get(place) for place in places]
        cells = ["" if change is None else f"{change:+.3f}" for change in changes]
        rows.append([way_of(found, curve), *cells, barrier_said(curve)])
    head = ["way", *(f"at {place:g}" for place in places), "barrier"]
    return table(head, rows, ("way",))
