"""A diagnosis as one HTML file: its words and pictures in it, and its playground's own script. It
asks no network, and runs nothing but the two scripts whose digests it names.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from merge_core.findings import counted
from merge_core.operations.diagnosis.sample import Sample
from merge_core.text.plain import plain
from merge_core.verification.verify import CheckpointRow
from tasks.diagnosis.advice import Advice
from tasks.diagnosis.diagnosis import NOTHING, Diagnosis
from tasks.diagnosis.loss_part import loss_part
from tasks.diagnosis.start import weights_to_try
from tasks.diagnosis.svg import percent, text
from tasks.diagnosis.weights_part import weights_part

_HERE = Path(__file__).parent


def diagnosis_html(
    found: Diagnosis, search: str | None, written: Mapping[str, str], further: Mapping[str, str]
) -> str:
    """The page; every name in it is text.

    Args:
        search: the file of the search to start from; None: there is none.
        written: each reference as a recipe has to write it that is saved elsewhere.
        further: keys that the playground's recipes have, too: the dtype.
    """
    with_playground = found.weights is not None and found.base is not None
    scripts = [_read("playground.js"), _read("view.js")] if with_playground else []
    body = [_head(found), _advice(found), _ancestry(found), loss_part(found), weights_part(found)]
    end = [_search(search)]
    if with_playground and found.weights is not None:
        data = _data(found, found.weights.sample, written, further)
        end.append(f'<script type="application/json" id="data">{_json(data)}</script>')
        end += [f"<script>{script}</script>" for script in scripts]
    return Template(_read("page.html")).substitute(
        title=text(f"Diagnosis of {found.name}"),
        style=_read("page.css"),
        hashes=" ".join(map(_hash, scripts)) or "'none'",
        body="\n".join(filter(None, body)),
        playground=_read("playground.html") if with_playground else "",
        end="\n".join(filter(None, end)),
    )


def _head(found: Diagnosis) -> str:
    listed = "".join(
        f"<li>{text(name)}"
        + (f" <small>{text(reference)}</small>" if reference != name else "")
        + "</li>"
        for name, reference in zip(found.names, found.models, strict=True)
    )
    base = f"base <b>{text(found.base)}</b>" if found.base else "no common base"
    return (
        f"<h1>Diagnosis of {text(found.name)}</h1>\n<p>{counted(len(found.models), 'model')},"
        f" {base}; the recipe's method is {text(found.method)}. Digest of the recipe"
        f" <code>{text(found.recipe_digest[:12])}</code>.</p>\n<ol>{listed}</ol>"
    )


def _advice(found: Diagnosis) -> str:
    items = "".join(map(_item, found.advice)) or f"<li>{NOTHING}</li>"
    return (
        '<section><h2>What to do</h2><p class="quiet">sure: measured with an interval, or told by'
        " the weights themselves; likely: a rule that holds widely; perhaps: worth a trial beside"
        f' the plain sum.</p><ul class="advice">{items}</ul></section>'
    )


def _item(advice: Advice) -> str:
    look = "forbids" if advice.forbids else advice.sure
    return (
        f'<li class="{look}"><span class="badge">{advice.sure}</span><b>{text(advice.do)}</b>'
        f"{text(advice.because)}<small>{text(advice.source)}</small></li>"
    )


def _ancestry(found: Diagnosis) -> str:
    rows = "".join(
        f"<tr><td>{text(row.reference)}</td><td>{_distance(found, row)}</td>"
        f"<td>{_plain(row.median_cosine)}</td><td class='text'>{text(row.verdict)}</td>"
        f"<td>{text(row.digest[:12])}</td></tr>"
        for row in found.compatibility.rows
    )
    findings = "".join(f"<li>{text(each)}</li>" for each in found.compatibility.findings)
    return (
        "<section><h2>Ancestry</h2><p>How far each checkpoint is from the"
        f" {'base' if found.compatibility.base else 'first of them'}, relative to its length, and"
        ' the median cosine of a sample of their tensors.</p><div class="scroll">'
        "<table><tr><th>checkpoint</th><th>distance</th><th>cosine</th>"
        f"<th class='text'>verdict</th><th>digest</th></tr>{rows}</table></div>"
        + (f"<ul>{findings}</ul>" if findings else "")
        + "</section>"
    )


def _search(search: str | None) -> str:
    if search is None:
        return ""
    return (
        "<section><h2>A search to start from</h2><p>For <code>mergeflow search FILE</code>: it"
        " tries these weights and lets the best merge through the gate.</p>"
        f"<pre>{_block(search)}</pre></section>"
    )


def _data(
    found: Diagnosis, sample: Sample, written: Mapping[str, str], further: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "names": list(map(_shown, found.names)),
        "base": written[found.base or ""],
        "models": [written[name] for name in found.models],
        "weights": weights_to_try(found),
        "further": dict(further),
        "sample": {
            "of": sample.of,
            "names": list(map(_shown, sample.names)),
            "tensors": sample.tensors,
            "places": sample.places,
            "base": _numbers(sample.base),
            "models": [_numbers(values) for values in sample.models],
        },
    }


def _numbers(values: tuple[float, ...]) -> list[float]:
    """As few digits as float32 needs to be read back as it was."""
    return [float(str(np.float32(value))) for value in values]


def _json(value: Any) -> str:
    """JSON that ends no script and opens no comment, wherever it stands in a page."""
    dense = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return dense.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _shown(name: str) -> str:
    return plain(name, 120)


def _block(lines: str) -> str:
    return "\n".join(map(text, lines.splitlines()))


def _distance(found: Diagnosis, row: CheckpointRow) -> str:
    """Of all weights where they were read, else of the sample that verify takes."""
    if found.weights is not None and row.reference in found.models:
        place = found.models.index(row.reference)
        return percent(found.weights.profile.overall.relative_norms[place])
    return "-" if row.relative_norm is None else percent(row.relative_norm)


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _read(name: str) -> str:
    return (_HERE / name).read_text("utf-8")
