"""The page asks no network, runs nothing but its own script, and every name in it is text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from tasks.diagnosis.diagnosis import Diagnosis
from tasks.diagnosis.page import diagnosis_html
from tasks.diagnosis.plot import curves_png
from tasks.diagnosis.summary import diagnosis_markdown
from tests.support.diagnosed import curves_with, diagnosis, line_curve, scale_curve, weights_of

HOSTILE = "<script>alert(1)<!--", "x' onload='alert(1)' \"><img src=y> &amp; ${jndi} \u202e"


class Seen(HTMLParser):
    """Tags with their attributes, the texts of scripts, and all other text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.unclosed: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "input"):
            self._open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.unclosed.append(tag)

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.texts.append(data)


def page_of(found: Diagnosis) -> str:
    names = [*([found.base] if found.base else []), *found.models]
    return diagnosis_html(found, "a: 1\n", {name: name for name in names}, {"dtype": "bfloat16"})


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Diagnosis:
    weights = weights_of(tmp_path_factory.mktemp("models"), {"a": 0.01, "b": 0.01})
    curves = curves_with(
        scale_curve(0, {0.0: 0.0, 0.5: 0.1, 1.0: None}), line_curve(0.05, 0.02, 0.1)
    )
    return diagnosis("base", HOSTILE, weights, curves, name=HOSTILE[0])


def test_a_strangers_name_is_text_wherever_it_stands(found: Diagnosis) -> None:
    seen = Seen(page_of(found))
    assert not seen.unclosed
    assert len(seen.scripts) == 3, "the data and two scripts of ours"
    assert "img" not in [tag for tag, _ in seen.tags]
    for _, attributes in seen.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert not {"src", "href", "action", "xlink:href"} & attributes.keys()
    shown = "".join(seen.texts)
    assert HOSTILE[0] in shown
    assert HOSTILE[1].replace("\u202e", "\\u202e") in shown
    assert "\u202e" not in page_of(found)


def test_nothing_is_asked_of_a_network_and_only_our_scripts_may_run(found: Diagnosis) -> None:
    page = page_of(found)
    seen = Seen(page)
    [policy] = [a["content"] for tag, a in seen.tags if tag == "meta" and "http-equiv" in a]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    digests = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in seen.scripts[1:]
    ]
    assert rules["script-src"].split() == digests
    assert not re.findall(r"@import|url\(|https?://(?!www\.w3\.org/2000/svg)", page)


def test_the_data_is_what_float32_holds(found: Diagnosis) -> None:
    data: dict[str, Any] = json.loads(Seen(page_of(found)).scripts[0])
    assert found.weights is not None
    sample = found.weights.sample
    assert data["sample"]["of"] == 2048
    for values, theirs in zip(data["sample"]["models"], sample.models, strict=True):
        assert np.array_equal(np.float32(values), np.array(theirs))
    assert data["models"] == list(HOSTILE)


def test_without_a_base_there_is_no_playground_and_no_script() -> None:
    page = page_of(diagnosis(None, ["a", "b"], None))
    seen = Seen(page)
    assert seen.scripts == []
    assert "script-src 'none'" in page
    assert "there is no base" in "".join(seen.texts)
    assert "nothing was evaluated" in "".join(seen.texts)


def test_every_number_of_the_curves_is_on_the_page_and_in_the_markdown(found: Diagnosis) -> None:
    shown = "".join(Seen(page_of(found)).texts)
    markdown = diagnosis_markdown(found, "a: 1\n", "/home/page.html")
    for number in ("+0.100", "+0.050", "+0.020 to +0.080"):
        assert number in shown
        assert number in markdown
    assert "a barrier" in shown
    assert "```yaml\na: 1\n```" in markdown
    assert "<script>" not in markdown


def test_lengths_and_cosines_by_kind_of_tensor_are_on_the_page(found: Diagnosis) -> None:
    assert found.weights is not None
    [group] = found.weights.profile.groups
    shown = "".join(Seen(page_of(found)).texts)
    assert group.name == "mlp"
    numbers = [f"{100 * norm:.3g} %" for norm in group.relative_norms]
    cosine, conflict = group.cosines[0], f"{100 * group.any_conflict:.3g} %"
    assert f"mlp2,048{''.join(numbers)}{cosine:+.3f}{conflict}" in shown


def test_the_curves_are_a_picture_too_and_no_evaluation_is_none(found: Diagnosis) -> None:
    picture = curves_png(found)
    assert picture is not None
    assert picture.startswith(b"\x89PNG")
    assert "](data:image/png;base64," in diagnosis_markdown(found, None, "/page", picture)
    assert curves_png(diagnosis(None, ["a", "b"], None)) is None
