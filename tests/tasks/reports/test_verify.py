"""The verify and profile pages say what the reports say; the picture is a small, whole PNG."""

from __future__ import annotations

import base64
import io
import itertools
import re
from pathlib import Path

import pytest
from PIL import Image

from merge_core.operations.profile import QUANTILES, Section, TaskVectorProfile
from merge_core.verification.verify import verify
from tasks.profile import profile_task
from tasks.reports.names import distinct_names
from tasks.reports.profile_plot import profile_figure_png
from tasks.reports.verify import compatibility_markdown, profile_markdown
from tasks.verify import verify_task
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama


def section(name: str, models: int) -> Section:
    pairs = len(list(itertools.combinations(range(models), 2)))
    return Section(
        name=name,
        tensors=9,
        parameters=1000,
        base_norm=10.0,
        norms=tuple(0.5 + 0.1 * index for index in range(models)),
        changed=(0.9,) * models,
        cosines=(0.25,) * pairs,
        conflicts=(0.4,) * pairs,
        any_conflict=0.6 if pairs else 0.0,
        magnitudes=((1e-4, 2e-4, 3e-4, 4e-4),) * models,
        thresholds=((3e-4, 2e-4, 1e-4),) * models,
        kept=((0.5, 0.7, 0.9),) * models,
    )


def profile(models: int, layers: int, groups: tuple[str, ...]) -> TaskVectorProfile:
    return TaskVectorProfile(
        base="org/base",
        models=tuple(f"/data/runs/expert-{index}" for index in range(models)),
        densities=(0.1, 0.2, 0.5),
        quantiles=QUANTILES,
        overall=section("all", models),
        layers=tuple(section(f"model.layers.{index}", models) for index in range(layers)),
        groups=tuple(section(name, models) for name in groups),
        tensors=(),
    )


def tables(markdown: str) -> list[list[list[str]]]:
    """The cells of each line of each table."""
    found: list[list[list[str]]] = [[]]
    for line in markdown.split("\n"):
        if line.startswith("|"):
            found[-1].append([each.strip() for each in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


PAGE_CHARACTERS = 80
"""What fits beside each other on an artifact's page in Prefect at 1280 pixels; cells are broken at
blanks."""


def check_tables(markdown: str) -> None:
    """Every table is whole, and none runs off the page."""
    assert tables(markdown)
    for rows in tables(markdown):
        assert len({len(row) for row in rows}) == 1
        words = [" ".join(column).replace("`", "").split() for column in zip(*rows, strict=True)]
        assert sum(3 + max(map(len, column)) for column in words) <= PAGE_CHARACTERS, rows[0]


def test_the_page_of_compatible_models_shows_each_and_says_so(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base", base_weights())
    model = write_llama(tmp_path / "expert", fine_tuned(base_weights(), 1))
    page = compatibility_markdown(verify(base, [model]))
    assert page.startswith("## These can be merged\n")
    assert "| expert | LlamaForCausalLM (llama) | 3,120 | float32 |" in page
    assert "| fine-tune of the base |" in page
    assert "### Good to know" in page
    check_tables(page)


def test_the_page_of_a_wrong_base_leads_with_the_error_and_what_to_do(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base", base_weights())
    trap = write_llama(tmp_path / "a|b", base_weights(7), template="other")
    page = compatibility_markdown(verify(base, [trap], scan_weights=False))
    assert page.startswith("## These cannot be merged: 1 error\n")
    assert page.index("### Errors") < page.index("### Warnings")
    assert "*What to do:* name the checkpoint it was fine-tuned from" in page
    assert "Weights were sampled, not all read." in page
    assert "unrelated to the base" in page
    check_tables(page)


def test_long_paths_and_names_leave_the_tables_on_the_page(tmp_path: Path) -> None:
    report = verify(
        write_llama(tmp_path / "base", base_weights()),
        [write_llama(tmp_path / "expert", fine_tuned(base_weights(), 1))],
    )
    rows = [
        row.model_copy(
            update={
                "reference": f"/data/{'team/' * 12}{row.reference}",
                "architecture": "Qwen3_5MoeForConditionalGeneration (qwen3_5_moe)",
                "parameters": 235_093_634_560,
                "dtype": "bfloat16, float32",
            }
        )
        for row in report.rows
    ]
    page = compatibility_markdown(report.model_copy(update={"rows": tuple(rows)}))
    check_tables(page)
    assert all(f"`{row.reference}`" in page for row in rows), "in full below"


def test_the_profile_page_holds_numbers_for_every_part_and_the_picture() -> None:
    shown = profile(2, 3, ("embeddings", "mlp"))
    page = profile_markdown(shown, profile_figure_png(shown))
    assert "## Task vectors of expert-0, expert-1" in page
    assert "| expert-1 | 0.6 | 6.00% | 90.0% | 1.00e-04 | 50.0% | 70.0% | 90.0% |" in page
    assert "| expert-0, expert-1 | +0.250 | 40.0% |" in page
    assert "| model.layers.2 | 1,000 | 5.00% | 6.00% | +0.250 | 60.0% |" in page
    (encoded,) = re.findall(r"\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", page)
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (1200, 816)


def test_the_profile_page_of_one_model_has_no_pairs() -> None:
    page = profile_markdown(profile(1, 2, ("mlp",)))
    assert "signs in conflict" not in page
    assert "data:image" not in page


@pytest.mark.parametrize(
    ("models", "layers", "groups"),
    [
        (1, 4, ("embeddings", "mlp")),
        (2, 80, ("embeddings", "mlp", "head")),
        (3, 0, ("mlp", "norms")),
        (6, 28, ("embeddings", "mlp", "head")),
        (14, 2, ("mlp",)),
    ],
)
def test_the_picture_is_small_whatever_the_model(
    models: int, layers: int, groups: tuple[str, ...]
) -> None:
    png = profile_figure_png(profile(models, layers, groups))
    assert len(png) < 120_000
    Image.open(io.BytesIO(png)).verify()


def test_short_names_tell_every_checkpoint_from_the_others() -> None:
    assert distinct_names(["/a/one", "/a/two"]) == ["one", "two"]
    assert distinct_names(["/a/x/step-1", "/a/y/step-1/"]) == ["x/step-1", "y/step-1"]
    assert distinct_names(["org/name@main"]) == ["name@main"]
    assert distinct_names(["same", "same"]) == ["same", "same"]


def test_the_steps_return_the_library_s_reports(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base", base_weights())
    model = write_llama(tmp_path / "expert", fine_tuned(base_weights(), 1))
    report = verify_task.fn(base, [model])
    assert report == verify(base, [model])
    measured = profile_task.fn(base, [model])
    assert measured.models == ("expert",)
