"""What the experiments are made of, and a quick run from training to page, with real models."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.science.__main__ import main
from benchmarks.science.chapters import Panel
from benchmarks.science.estimates import Estimate
from benchmarks.science.experiments import EXPERIMENTS
from benchmarks.science.experiments.scale import crossings
from benchmarks.science.pictures import picture
from benchmarks.science.results import Results
from benchmarks.science.sizes import FULL, QUICK
from benchmarks.science.texts import DIALECTS, Documents, Skill, Texts

pytestmark = pytest.mark.slow  # all of it imports transformers or matplotlib


def quick(place: Path, work: Path, *more: str) -> int:
    files = ["--out", f"{place}/science.md", "--plots", f"{place}/images/science"]
    files += ["--numbers", f"{place}/measured.json", "--work", str(work)]
    place.mkdir()
    return main(["--quick", *files, *more])


def test_a_quick_run_writes_a_page_of_every_experiment_and_the_same_again(tmp_path: Path) -> None:
    assert quick(tmp_path / "one", tmp_path / "work") == 0
    text = (tmp_path / "one" / "science.md").read_text()
    assert re.findall(r"\(images/science/(\w+)\.png\)", text) == list(EXPERIMENTS)
    for name in EXPERIMENTS:
        assert (tmp_path / "one" / "images" / "science" / f"{name}.png").stat().st_size > 5000
    found = json.loads((tmp_path / "one" / "measured.json").read_text())
    assert found["quick"] is True
    assert found["numbers"]["barrier_other_base"]["mean"] > 0.0

    # Found again, it is the same; and trained anew, too.
    assert quick(tmp_path / "two", tmp_path / "work") == 0
    assert (tmp_path / "two" / "science.md").read_text() == text
    assert quick(tmp_path / "three", tmp_path / "new work", "--only", "scale") == 0
    anew = json.loads((tmp_path / "three" / "measured.json").read_text())["numbers"]
    assert anew == {name: found["numbers"][name] for name in anew}
    assert anew


def test_an_experiment_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "alchemy"]) == 2
    said = capsys.readouterr().err
    assert "no experiment has 'alchemy'" in said
    assert "forgetting, scale, soups" in said
    assert main(["--seeds", "0"]) == 2


def test_where_a_sum_is_as_good_as_the_base_again_is_read_between_the_points() -> None:
    documents = Documents("d", (([1], [2]),), ("f",), (9,))
    over = {"0": [2.0, 2.0], "0.5": [1.9, 1.8], "1": [2.1, 2.2], "2": [3.0, 3.0]}
    values = {name: [np.array(seeds)[:, None]] for name, seeds in over.items()}
    scale, error = crossings(Results([documents], values), [0.0, 0.5, 1.0, 2.0])
    assert scale == pytest.approx(0.75)
    assert error == pytest.approx(0.0, abs=1e-12)
    never = {name: [np.array([[2.0], [1.0]])] for name in over} | {"2": [np.array([[3.0], [0.5]])]}
    never["0.5"] = never["1"] = [np.array([[1.9], [0.9]])]
    assert math.isnan(crossings(Results([documents], never), [0.0, 0.5, 1.0, 2.0])[0])


def test_a_dialect_is_the_same_text_written_otherwise() -> None:
    text = "def one(a):\n    return a + 1"
    written = {name: write(text) for name, write in DIALECTS.items()}
    assert written["plain"] == text
    assert written["capitals"] == "DEF ONE(A):\n    RETURN A + 1"
    assert written["underscores"] == "def_one(a):\n____return_a_+_1"
    assert written["backwards"].split("\n")[0] == "one(a): def"
    assert written["figures"] == "d3f 0n3(4):\n    r3turn 4 + 1"
    assert len(set(written.values())) == len(DIALECTS)


def test_a_model_of_the_page_has_a_million_parameters() -> None:
    """As transformers counts them: of the zoo's base."""
    from transformers import LlamaConfig, LlamaForCausalLM

    for size in (FULL, QUICK):
        shape = size.zoo.shape
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=shape.vocabulary,
                hidden_size=shape.hidden,
                intermediate_size=shape.intermediate,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.kv_heads,
                tie_word_embeddings=True,
            )
        )
        assert size.parameters == sum(each.numel() for each in model.parameters())


def test_what_is_chosen_and_what_is_judged_by_are_of_different_files(tmp_path: Path) -> None:
    texts = Texts(QUICK, tmp_path / "suite")
    for domain in ("code", "prose"):
        tuning, judging = (texts.texts(Skill(domain), half) for half in ("tuning", "judging"))
        asked = texts.questions(domain, "judging")
        assert not set(tuning.groups) & set(judging.groups)
        assert not set(tuning.groups) & set(asked.groups)
        assert len(judging.pairs) == len(judging.groups) == 2 * QUICK.judging_files
        capitals = texts.texts(Skill(domain, "capitals"), "judging")
        assert capitals.groups == judging.groups
        assert capitals.digest != judging.digest


def test_a_picture_is_a_png_with_lines_and_bars() -> None:
    one = Estimate(0.1, 0.02, 3, 9)
    lines = Panel("lines", [0.0, 1.0], {"a": [one, one], "b": [one, one]}, "x", "y", "base")
    bars = Panel("bars", ["p", "q"], {"a": [one, one]}, "x", "y")
    drawn = Image.open(io.BytesIO(picture([lines, bars])))
    assert drawn.format == "PNG"
    assert len(np.unique(np.asarray(drawn.convert("RGB")).reshape(-1, 3), axis=0)) > 20
