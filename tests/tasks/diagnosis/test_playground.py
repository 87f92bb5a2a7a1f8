"""The playground's arithmetic in a real browser, beside merge_core's merge of the same entries, by
the recipe that the page itself writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flows.cli.program import run
from flows.model_zoo import Zoo
from merge_core.checkpoints.sources import describe_source
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.operations.diagnosis.weights import diagnose_weights
from merge_core.recipes.loading import load_recipe
from merge_core.records import SourceCheckpoint
from tasks.diagnosis.page import diagnosis_html
from tests.support.browser import chromium
from tests.support.checkpoints import run_recipe, write_checkpoint
from tests.support.diagnosed import diagnosis

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow

ENTRIES = 1500
NAMES = ("base", "one <b>", "two: 'x' # \U0001f600", "three")
SETTINGS: dict[str, Any] = {
    "weights": [0.7, -0.4, 1.3],
    "lambda": 0.8,
    "density": 0.2,
    "seed": 3,
    "t": 0.3,
    "from": 0,
    "to": 2,
}
MERGE = """settings => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const found = Playground.merge(Playground.load(page.sample), settings);
  return {
    merged: Array.from(found.merged), change: Array.from(found.change),
    parts: found.parts.map((part) => ({ keep: Array.from(part.keep), factor: part.factor })),
    recipe: Playground.recipe(page, settings),
  };
}"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SourceCheckpoint]:
    """One tensor each, small enough to be its own sample, with equal magnitudes among it."""
    directory, generator = tmp_path_factory.mktemp("models"), torch.Generator().manual_seed(5)
    base = torch.randn(ENTRIES, generator=generator)
    found = {"base": write_checkpoint(directory / "base", {"w.weight": base})}
    for name in NAMES[1:]:
        step = 0.1 * torch.randn(ENTRIES, generator=generator) ** 3
        step[::7] = step[::7].sign() * 0.0625
        step[::5] = 0
        found[name] = write_checkpoint(directory / name, {"w.weight": base + step})
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def page(
    browser: Browser, sources: dict[str, SourceCheckpoint], tmp_path_factory: Any
) -> Iterator[Page]:
    """The page of a diagnosis, opened as a file, with no complaint in its console."""
    base, *models = sources.values()
    weights = diagnose_weights(base, models)
    assert len(weights.sample.base) == ENTRIES
    found = diagnosis("base", NAMES[1:], weights)
    written = {name: source.path for name, source in sources.items()}
    file = tmp_path_factory.mktemp("page") / "diagnosis.html"
    file.write_text(diagnosis_html(found, None, written, {"dtype": "float32"}), "utf-8")
    complaints: list[str] = []
    opened = browser.new_page(viewport={"width": 1200, "height": 1000})
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: complaints.append(request.url))
    opened.goto(file.as_uri())
    yield opened
    assert [each for each in complaints if each != file.as_uri()] == []


def merged_by_us(recipe: str, sources: dict[str, SourceCheckpoint], directory: Path) -> np.ndarray:
    """What merge_core makes of the page's recipe."""
    file = directory / "recipe.yaml"
    file.write_text(recipe, "utf-8")
    loaded = load_recipe(file)
    by_path = {
        source.path: describe_source(source.path, source.directory, DigestMemo(None))
        for source in sources.values()
    }
    out = directory / "out"
    run_recipe(loaded, {name: by_path[name] for name in loaded.references()}, out)
    [tensor] = load_file(out / "model.safetensors").values()
    return tensor.double().numpy()


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "task_arithmetic"},
        {"method": "task_arithmetic", "lambda": 2.5, "weights": [1, 1, 0]},
        {"method": "linear", "weights": [0.2, 0.3, 1.1]},
        *({"method": "ties", "density": density} for density in (0.01, 0.2, 0.35, 1.0)),
        {"method": "ties", "weights": [0.5, 0.5, -1.0]},
        {"method": "slerp", "from": -1, "to": 1},
        {"method": "slerp", "t": 0.85},
        {"method": "slerp", "t": 0.0},
        {"method": "nuslerp"},
        {"method": "nuslerp", "from": 2, "to": 1, "t": 1.0},
        {"method": "dare_linear", "density": 1.0},
        {"method": "dare_ties", "density": 1.0},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_the_playground_merges_as_merge_core_does(
    page: Page, sources: dict[str, SourceCheckpoint], tmp_path: Path, changes: dict[str, Any]
) -> None:
    found = page.evaluate(MERGE, SETTINGS | changes)
    ours = merged_by_us(found["recipe"], sources, tmp_path)
    theirs = np.array(found["merged"])
    # Sums are added in another order, so the last bit of float32 may be the other one.
    assert np.all(np.abs(theirs - ours) <= np.spacing(np.abs(ours).astype(np.float32)))
    assert np.mean(theirs == ours) > 0.999
    base = load_file(sources["base"].directory / "model.safetensors")["w.weight"].numpy()
    assert np.abs(ours - base).max() > 0.01, "something was merged"


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_what_dare_draws_is_distributed_alike(
    page: Page,
    sources: dict[str, SourceCheckpoint],
    tmp_path: Path,
    method: str,
    density: float,
) -> None:
    settings = SETTINGS | {"method": method, "density": density, "weights": [0.5, 0.5, 0.5]}
    found = page.evaluate(MERGE, settings)
    theirs = np.array(found["change"])
    values = [load_file(s.directory / "model.safetensors")["w.weight"] for s in sources.values()]
    deltas = [(model.double() - values[0].double()).numpy() for model in values[1:]]
    ours = merged_by_us(found["recipe"], sources, tmp_path) - values[0].double().numpy()
    for delta, part in zip(deltas, found["parts"], strict=True):
        keep = np.array(part["keep"], bool)
        assert abs(keep.mean() - density) < 4 * np.sqrt(density * (1 - density) / ENTRIES)
        assert part["factor"] == pytest.approx(np.abs(delta).sum() / np.abs(delta[keep]).sum())
    masks = [np.array(part["keep"], bool) for part in found["parts"]]
    for i, j in ((0, 1), (0, 2), (1, 2)):  # independent of each other
        both = (masks[i] & masks[j]).mean()
        assert abs(both - density**2) < 4 * np.sqrt(density**2 * (1 - density**2) / ENTRIES)
    # Two draws of one distribution: as many zeros, as long, the same mean.
    zeros = (theirs == 0).mean(), (np.abs(ours) < 1e-12).mean()
    assert abs(zeros[0] - zeros[1]) < 5 * np.sqrt(0.5 / ENTRIES)
    spread = np.sqrt((theirs.var() + ours.var()) / ENTRIES)
    assert abs(theirs.mean() - ours.mean()) < 4 * spread
    assert np.linalg.norm(theirs) == pytest.approx(np.linalg.norm(ours), rel=0.25)


def test_another_draw_is_another_one_and_the_same_draw_the_same(page: Page) -> None:
    settings = SETTINGS | {"method": "dare_linear"}
    first, again = page.evaluate(MERGE, settings), page.evaluate(MERGE, settings)
    other = page.evaluate(MERGE, settings | {"seed": 4})
    assert first == again
    overlap = np.mean(np.array(first["parts"][0]["keep"]) & np.array(other["parts"][0]["keep"]))
    assert overlap == pytest.approx(0.04, abs=0.025)


def slide(page: Page, control: str, value: object) -> None:
    page.evaluate(
        """([id, value]) => {
          const control = document.getElementById(id);
          control.value = value;
          control.dispatchEvent(new Event("input", { bubbles: true }));
        }""",
        [control, str(value)],
    )


def test_sliders_show_what_is_trimmed_who_is_outvoted_and_where_the_arc_runs(page: Page) -> None:
    page.select_option("#pg-method", "ties")
    slide(page, "pg-density", 0.1)
    assert "90 % of the entries are trimmed" in page.inner_text("#pg-said")
    assert "loses the vote on the sign" in page.inner_text("#pg-said")
    assert page.locator("#pg-strip rect.out").count() > 0
    page.select_option("#pg-which", "conflict")
    assert page.locator("#pg-strip rect").count() == 48 * 3
    slide(page, "pg-density", 1)
    assert page.locator("#pg-strip rect.outvoted").count() > 0
    assert not page.locator("#pg-arc").is_visible()
    page.select_option("#pg-method", "dare_linear")
    slide(page, "pg-density", 0.25)
    assert "what is left is multiplied by" in page.inner_text("#pg-said")
    page.select_option("#pg-method", "nuslerp")
    assert page.locator("#pg-arc").is_visible()
    assert page.input_value("#pg-from") != page.input_value("#pg-to")
    assert "degrees apart" in page.inner_text("#pg-said")
    assert page.locator("#pg-arc circle.here").count() == 1
    for name in NAMES[1:]:
        assert page.get_by_text(name, exact=False).count() > 0, "names are text, not markup"
    assert page.locator("#playground b").count() == 0


def test_the_recipe_is_copied(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.select_option("#pg-method", "ties")
    page.click("#pg-copy")
    page.wait_for_function("document.getElementById('pg-copied').textContent === 'copied'")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.evaluate("document.getElementById('pg-recipe').textContent")


def test_mergeflow_plan_takes_what_every_method_writes(
    browser: Browser, tiny_zoo: Zoo, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the commands: diagnose, open the page, choose, save, plan."""
    recipe = tmp_path / "recipe.yaml"
    experts = [str(tiny_zoo.directory / name) for name in ("code-expert", "prose-expert")]
    models = [{"model": name, "parameters": {"weight": 0.5}} for name in experts]
    content = {"merge_method": "ties", "base_model": str(tiny_zoo.base), "models": models}
    recipe.write_text(json.dumps(content | {"dtype": "bfloat16"}))
    monkeypatch.chdir(tmp_path)
    assert run(["diagnose", "recipe.yaml"]) == 0
    opened = browser.new_page()
    opened.goto((tmp_path / "recipe-diagnosis.html").as_uri())
    methods = opened.eval_on_selector_all("#pg-method option", "all => all.map((o) => o.value)")
    assert len(methods) == 7
    for method in methods:
        opened.select_option("#pg-method", method)
        written = tmp_path / f"{method}.yaml"
        written.write_text(opened.inner_text("#pg-recipe"), "utf-8")
        assert load_recipe(written).merge_method == method
        assert run(["plan", str(written)]) == 0
