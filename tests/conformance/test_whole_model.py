"""Methods that look at a whole model first equal an oracle over all tensors laid end to end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from merge_core.engine.model_statistics import gather_model_statistics
from merge_core.errors import NonFiniteError, RecipeError
from merge_core.planning.merged_tensor import Computing
from merge_core.planning.plan import make_plan
from merge_core.recipes.loading import parse_recipe
from merge_core.reductions.constants import CHUNK
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.safetensors_header import TensorEntry
from tests.conformance import oracle
from tests.conformance import oracle_task_vectors as vectors
from tests.conformance.nasty import (
    NAMES,
    Models,
    Zoo,
    assert_equals_oracle,
    end_to_end,
    entry,
    merge_nasty,
    values,
)
from tests.conformance.oracle import Array
from tests.support.checkpoints import run_recipe, write_checkpoint

EXPERTS = ("a", "b", "c")


class SlowReader(BlockReader):
    """Reads a tensor called long block by block, slowly, once one called broken was read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self._broken_was_read = threading.Event()

    def read(
        self, entry: TensorEntry, start: int, count: int, buffer: bytearray | None = None
    ) -> torch.Tensor:
        if entry.name == "broken":
            self._broken_was_read.set()
        elif start:
            self._broken_was_read.wait(5)
            time.sleep(0.01)
            self.reads += 1
        return super().read(entry, start, count, buffer)


def based(*models: dict[str, object], **parameters: object) -> dict[str, object]:
    return {"base_model": "base", "models": list(models), "parameters": parameters}


def ties(m: Models, densities: list[float], weights: list[float], **options: object) -> Array:
    trimmed = [
        oracle.trim(m[name] - m["base"], density) if density else np.zeros_like(m["base"])
        for name, density in zip(EXPERTS, densities, strict=True)
    ]
    settings: dict[str, object] = {"consensus": True, "normalize": True, **options}
    return oracle.add_task_vectors(m["base"], trimmed, weights, **settings)  # type: ignore[arg-type]


def paper_ties(m: Models, density: float, scale: float) -> Array:
    """Trim, elect by the majority of signs, disjoint mean: by loops over the definition."""
    trimmed = np.stack([oracle.trim(m[name] - m["base"], density) for name in EXPERTS])
    votes = np.sign(trimmed).sum(axis=0)
    merged = np.zeros_like(m["base"])
    for position in range(merged.size):
        column = trimmed[:, position]
        side = column[column > 0] if votes[position] >= 0 else column[column < 0]
        merged[position] = side.mean() if side.size else 0.0
    return m["base"] + scale * merged


@pytest.mark.parametrize("density", [0.001, 0.2, 0.55, 0.9])
def test_ties_over_the_whole_model_keeps_the_largest_of_all_tensors(
    zoo: Zoo, tmp_path: Path, density: float
) -> None:
    models = [entry("a", weight=0.6), entry("b", weight=0.5), entry("c", weight=-0.2)]
    recipe = {"merge_method": "ties", **based(*models, density=density, scope="global")}
    merge_nasty(recipe, zoo, tmp_path / "out")
    expected = end_to_end(zoo, lambda m: ties(m, [density] * 3, [0.6, 0.5, -0.2]))
    assert_equals_oracle(tmp_path / "out", expected)


def test_each_model_may_have_its_own_density_over_the_whole_model(zoo: Zoo, tmp_path: Path) -> None:
    models = [
        entry("a", weight=1, density=0.3),
        entry("b", weight=1, density=1.0),
        entry("c", weight=1, density=0),
    ]
    recipe = {"merge_method": "ties", **based(*models, scope="global")}
    merge_nasty(recipe, zoo, tmp_path / "out")
    expected = end_to_end(zoo, lambda m: ties(m, [0.3, 1.0, 0.0], [1, 1, 1]))
    assert_equals_oracle(tmp_path / "out", expected)


def test_the_paper_s_ties_is_global_with_counted_votes_and_a_plain_mean(
    zoo: Zoo, tmp_path: Path
) -> None:
    models = [entry(name, weight=1) for name in EXPERTS]
    options = {"scope": "global", "elect": "count", "average": "count", "lambda": 0.7}
    recipe = {"merge_method": "ties", **based(*models, density=0.4, **options)}
    merge_nasty(recipe, zoo, tmp_path / "out")
    assert_equals_oracle(tmp_path / "out", end_to_end(zoo, lambda m: paper_ties(m, 0.4, 0.7)))


def test_average_count_divides_weighted_task_vectors_by_their_number(
    zoo: Zoo, tmp_path: Path
) -> None:
    models = [entry("a", weight=0.2), entry("b", weight=0.2), entry("c", weight=0.2)]
    recipe = {"merge_method": "ties", **based(*models, density=0.5, average="count")}
    merge_nasty(recipe, zoo, tmp_path / "out")
    loaded = {name: values(zoo, name) for name in NAMES}
    expected = {
        key: ties({name: loaded[name][key] for name in NAMES}, [0.5] * 3, [0.2] * 3, scale=0.2)
        for key in loaded["base"]
    }
    assert_equals_oracle(tmp_path / "out", expected)


def test_only_the_tensors_of_global_scope_are_trimmed_together(zoo: Zoo, tmp_path: Path) -> None:
    models = [entry(name, weight=1) for name in EXPERTS]
    scope = [{"filter": "layers", "value": "global"}, {"value": "tensor"}]
    recipe = {"merge_method": "ties", **based(*models, density=0.3, scope=scope)}
    merge_nasty(recipe, zoo, tmp_path / "out")
    together = end_to_end(zoo, lambda m: ties(m, [0.3] * 3, [1, 1, 1]), only="layers")
    loaded = {name: values(zoo, name) for name in NAMES}
    alone = {
        key: ties({name: loaded[name][key] for name in NAMES}, [0.3] * 3, [1, 1, 1])
        for key in loaded["base"]
        if "layers" not in key
    }
    assert_equals_oracle(tmp_path / "out", {**together, **alone})


def test_a_density_that_differs_between_tensors_is_refused_while_planning(
    zoo: Zoo, tmp_path: Path
) -> None:
    models = [entry("a", weight=1, density=[0.2, 0.8]), entry("b", weight=1)]
    recipe = {"merge_method": "ties", **based(*models, scope="global")}
    with pytest.raises(RecipeError, match="its density is"):
        run_recipe(recipe, zoo, tmp_path / "out")


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_norms_are_of_the_whole_task_vector_or_of_the_tensor(
    zoo: Zoo, tmp_path: Path, scope: str
) -> None:
    def metagpt(m: Models) -> Array:
        return vectors.metagpt(m["base"], [m[name] for name in EXPERTS])

    recipe = {"merge_method": "metagpt", **based(*map(entry, EXPERTS), scope=scope)}
    merge_nasty(recipe, zoo, tmp_path / "out")
    assert_equals_oracle(tmp_path / "out", _by_scope(zoo, metagpt, scope), slack=1e-10)


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_task_vectors_are_brought_to_one_length_as_a_whole_or_by_tensor(
    zoo: Zoo, tmp_path: Path, scope: str
) -> None:
    def normalized(m: Models) -> Array:
        experts = [m[name] for name in EXPERTS]
        return vectors.normalized_task_arithmetic(m["base"], experts, [0.5, 0.3, -0.1], 1.1)

    models = [entry("a", weight=0.5), entry("b", weight=0.3), entry("c", weight=-0.1)]
    recipe = {
        "merge_method": "normalized_task_arithmetic",
        **based(*models, scope=scope, **{"lambda": 1.1}),
    }
    merge_nasty(recipe, zoo, tmp_path / "out")
    assert_equals_oracle(tmp_path / "out", _by_scope(zoo, normalized, scope), slack=1e-10)


@pytest.mark.parametrize("options", [{"threads": 3}, {"block_elements": 1}, {"threads": 1}])
def test_model_statistics_are_the_same_however_they_are_gathered(
    zoo: Zoo, tmp_path: Path, options: dict[str, int]
) -> None:
    models = [entry(name, weight=1) for name in EXPERTS]
    recipe = {"merge_method": "ties", **based(*models, density=0.25, scope="global")}
    usual = run_recipe(recipe, zoo, tmp_path / "usual", threads=2)
    other = run_recipe(recipe, zoo, tmp_path / "other", **options)
    assert other.digest == usual.digest


def _by_scope(zoo: Zoo, merge: Callable[[Models], Array], scope: str) -> Mapping[str, Array]:
    if scope == "global":
        return end_to_end(zoo, merge)
    loaded = {name: values(zoo, name) for name in NAMES}
    return {key: merge({name: loaded[name][key] for name in NAMES}) for key in loaded["base"]}


def test_a_pass_for_model_statistics_that_fails_reads_no_tensor_to_its_end(tmp_path: Path) -> None:
    tensors = {"broken": torch.tensor([float("nan")]), "long": torch.ones(50 * CHUNK).half()}
    sources = {name: write_checkpoint(tmp_path / name, tensors) for name in ("base", "a")}
    settings = based(entry("a", weight=1.0), density=0.5, scope="global")
    plan = make_plan(parse_recipe({"merge_method": "ties", **settings}), sources)
    stop = threading.Event()
    with SlowReader() as reader, pytest.raises(NonFiniteError):
        gather_model_statistics(
            plan.observed,
            {},
            lambda: Computing(reader, torch.device("cpu"), CHUNK, {}, stop),
            workers=2,
        )
    assert reader.reads < 50
