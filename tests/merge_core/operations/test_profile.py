"""The task vector profile against plain float64 numpy; how it is computed changes nothing."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from merge_core.errors import CompatibilityError, NonFiniteError, RecipeError
from merge_core.operations import common_tensors as rows_module
from merge_core.operations import profile as profile_module
from merge_core.operations.profile import (
    QUANTILES,
    Section,
    TaskVectorProfile,
    profile_key,
    profile_task_vectors,
)
from merge_core.operations.profile_sums import BINS, bin_values
from merge_core.progress import ProgressEvent
from merge_core.records import SourceCheckpoint
from tests.support.checkpoints import write_checkpoint

Weights = dict[str, torch.Tensor]
Vector = npt.NDArray[np.float64]
EMBED, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
UP0, Q0, UP1 = (
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.mlp.up_proj.weight",
)
DENSITIES = (0.05, 0.3, 1.0)


def weights(seed: int, dtype: torch.dtype) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    shapes = {EMBED: (40, 24), UP0: (64, 24), Q0: (24, 24), UP1: (64, 24), NORM: (24,), HEAD: (7,)}
    return {n: (0.05 * torch.randn(s, generator=generator)).to(dtype) for n, s in shapes.items()}


def experts(base: Weights, count: int) -> list[Weights]:
    """Fine-tunes with long tails; each leaves some weights as they are."""
    models = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(100 + seed)
        model = {}
        for name, tensor in base.items():
            step = 0.004 * (seed + 1) * torch.randn(tensor.shape, generator=generator) ** 3
            kept = torch.rand(tensor.shape, generator=generator) < 0.3
            model[name] = torch.where(kept, tensor, (tensor.float() + step).to(tensor.dtype))
        models.append(model)
    return models


def written(
    tmp_path: Path, base: Weights, models: list[Weights]
) -> tuple[SourceCheckpoint, list[SourceCheckpoint]]:
    return (
        write_checkpoint(tmp_path / "base", base, shards=2),
        [write_checkpoint(tmp_path / f"expert-{i}", model) for i, model in enumerate(models)],
    )


def deltas(base: Weights, model: Weights, names: list[str]) -> Vector:
    """The oracle's task vector: float64 throughout."""
    return np.concatenate([(model[n].double() - base[n].double()).numpy().ravel() for n in names])


def check(section: Section, base: Weights, models: list[Weights], names: list[str]) -> None:
    """Compare everything a section says with sums over whole float64 vectors."""
    origin = np.concatenate([base[name].double().numpy().ravel() for name in names])
    vectors = [deltas(base, model, names) for model in models]
    assert section.tensors == len(names)
    assert section.parameters == len(origin)
    assert section.base_norm == pytest.approx(np.linalg.norm(origin), rel=1e-5)
    assert section.norms == pytest.approx([np.linalg.norm(v) for v in vectors], rel=1e-5)
    assert section.changed == pytest.approx([np.mean(v != 0) for v in vectors], rel=1e-5)
    pairs = list(itertools.combinations(vectors, 2))
    assert section.cosines == pytest.approx(
        [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs], abs=1e-5
    )
    assert section.conflicts == pytest.approx(
        [np.sum(a * b < 0) / np.sum(a * b != 0) for a, b in pairs], rel=1e-5
    )
    stacked = np.stack(vectors)
    several = (stacked != 0).sum(0) > 1
    opposed = (stacked > 0).any(0) & (stacked < 0).any(0)
    assert section.any_conflict == pytest.approx(opposed.sum() / several.sum(), rel=1e-5)
    for index, vector in enumerate(vectors):
        ascending = np.sort(np.abs(vector))
        ranks = [int(np.ceil(q * len(ascending))) - 1 for q in QUANTILES]
        assert section.magnitudes[index] == pytest.approx(ascending[ranks], rel=0.005)
        counts = [max(1, int(d * len(ascending))) for d in DENSITIES]
        assert section.thresholds[index] == pytest.approx(
            [ascending[-count] for count in counts], rel=0.005
        )
        kept = [
            sum(_largest(deltas(base, models[index], [name]), density) for name in names)
            for density in DENSITIES
        ]
        assert section.kept[index] == pytest.approx(np.array(kept) / (vector @ vector), rel=0.01)


def _largest(vector: Vector, density: float) -> float:
    """Squared norm of the share `density` of largest elements."""
    descending = np.sort(vector**2)[::-1]
    return float(descending[: max(1, int(density * len(vector)))].sum())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_profile_equals_a_float64_oracle(tmp_path: Path, dtype: torch.dtype) -> None:
    base = weights(0, dtype)
    models = experts(base, 3)
    source, sources = written(tmp_path, base, models)
    profile = profile_task_vectors(source, sources, densities=DENSITIES)
    assert profile.models == ("expert-0", "expert-1", "expert-2")
    assert profile.pairs == ((0, 1), (0, 2), (1, 2))
    check(profile.overall, base, models, sorted(base))
    assert [layer.name for layer in profile.layers] == ["model.layers.0", "model.layers.1"]
    check(profile.layers[0], base, models, [Q0, UP0])
    check(profile.layers[1], base, models, [UP1])
    groups = {group.name: group for group in profile.groups}
    assert set(groups) == {"embeddings", "attention", "mlp", "norms", "head"}
    check(groups["mlp"], base, models, [UP0, UP1])
    check(groups["norms"], base, models, [NORM])
    rows = {row.name: row for row in profile.tensors}
    assert set(rows) == set(base)
    norms = [np.linalg.norm(deltas(base, model, [UP1])) for model in models]
    assert rows[UP1].norms == pytest.approx(norms, rel=1e-5)


def test_threads_and_run_length_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {"layers.0.w": torch.randn(900, 1000), "v": torch.randn(3)}
    models = [{n: t + 0.01 * torch.randn(t.shape) for n, t in base.items()} for _ in range(2)]
    source, sources = written(tmp_path, base, models)
    one = profile_task_vectors(source, sources, threads=1)
    assert profile_task_vectors(source, sources, threads=4) == one
    monkeypatch.setattr(rows_module, "_RUN", 1 << 18)
    assert profile_task_vectors(source, sources, threads=3) == one


def test_a_profile_survives_json(tmp_path: Path) -> None:
    base = weights(0, torch.float32)
    source, sources = written(tmp_path, base, experts(base, 2))
    profile = profile_task_vectors(source, sources)
    assert TaskVectorProfile.model_validate_json(profile.model_dump_json()) == profile


def test_a_zero_task_vector_has_no_cosine_and_no_conflict(tmp_path: Path) -> None:
    base = weights(0, torch.float32)
    source, sources = written(tmp_path, base, [base, *experts(base, 1)])
    overall = profile_task_vectors(source, sources).overall
    assert overall.norms[0] == 0.0
    assert overall.changed[0] == 0.0
    assert overall.cosines == (None,)
    assert overall.conflicts == (0.0,)
    assert overall.kept[0] == (0.0, 0.0, 0.0)
    assert overall.thresholds[0] == (0.0, 0.0, 0.0)


def test_opposite_and_equal_task_vectors_are_the_extremes(tmp_path: Path) -> None:
    base = weights(0, torch.float64)
    (up,) = experts(base, 1)
    down = {name: 2 * base[name] - up[name] for name in base}
    source, sources = written(tmp_path, base, [up, down, up])
    overall = profile_task_vectors(source, sources).overall
    assert overall.cosines == pytest.approx((-1.0, 1.0, -1.0))
    assert overall.conflicts == (1.0, 0.0, 1.0)
    assert overall.any_conflict == 1.0


def test_one_model_has_a_profile_without_pairs(tmp_path: Path) -> None:
    base = weights(0, torch.bfloat16)
    source, sources = written(tmp_path, base, experts(base, 1))
    profile = profile_task_vectors(source, sources)
    assert profile.pairs == ()
    assert profile.overall.cosines == ()
    assert profile.overall.any_conflict == 0.0


def test_models_of_different_dtypes_are_compared(tmp_path: Path) -> None:
    base = weights(0, torch.float32)
    model = {name: tensor.bfloat16() for name, tensor in experts(base, 1)[0].items()}
    source, sources = written(tmp_path, base, [model])
    norm = np.linalg.norm(deltas(base, model, sorted(base)))
    assert profile_task_vectors(source, sources).overall.norms == pytest.approx([norm], rel=1e-5)


def test_tensors_without_a_counterpart_are_left_out_and_named(tmp_path: Path) -> None:
    base = weights(0, torch.float32) | {"model.ids": torch.arange(4), "only.base": torch.ones(2)}
    model = experts(base, 1)[0] | {EMBED: torch.ones(44, 24)}
    del model["only.base"]
    source, sources = written(tmp_path, base, [model])
    profile = profile_task_vectors(source, sources)
    assert profile.skipped == (EMBED, "model.ids", "only.base")
    assert EMBED not in [row.name for row in profile.tensors]


def test_nothing_in_common_is_an_error(tmp_path: Path) -> None:
    source, sources = written(
        tmp_path, {"w": torch.ones(2), "x": torch.ones(2)}, [{"v": torch.ones(2)}]
    )
    with pytest.raises(CompatibilityError, match="no float tensor in common") as raised:
        profile_task_vectors(source, sources)
    assert "mergeflow verify" in (raised.value.mend or "")


def test_a_weight_that_is_no_number_is_an_error_that_names_the_tensor(tmp_path: Path) -> None:
    base = weights(0, torch.float32)
    (model,) = experts(base, 1)
    model[UP1][0, 0] = float("nan")
    source, sources = written(tmp_path, base, [model])
    with pytest.raises(NonFiniteError, match=UP1) as raised:
        profile_task_vectors(source, sources)
    assert "mergeflow verify" in (raised.value.mend or "")


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5, float("nan")])
def test_a_density_that_is_no_share_is_an_error(tmp_path: Path, density: float) -> None:
    base = weights(0, torch.float32)
    source, sources = written(tmp_path, base, experts(base, 1))
    with pytest.raises(RecipeError, match="above 0 and at most 1"):
        profile_task_vectors(source, sources, densities=[density])


def test_a_model_of_very_many_tensors_keeps_the_rows_that_changed_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {f"layers.{index}.w": torch.ones(4) for index in range(12)}
    model = {name: tensor + 0.1 * index for index, (name, tensor) in enumerate(base.items())}
    source, sources = written(tmp_path, base, [model])
    monkeypatch.setattr(profile_module, "MAX_TENSOR_ROWS", 3)
    profile = profile_task_vectors(source, sources)
    assert [row.name for row in profile.tensors] == [f"layers.{i}.w" for i in (9, 10, 11)]
    assert profile.tensors_left_out == 9
    assert [layer.name for layer in profile.layers] == [f"layers.{i}" for i in range(12)]


def test_layers_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    base = {f"model.layers.{index}.w": torch.ones(2) for index in range(11)}
    source, sources = written(tmp_path, base, [{n: t + 1 for n, t in base.items()}])
    names = [layer.name for layer in profile_task_vectors(source, sources).layers]
    assert names == [f"model.layers.{index}" for index in range(11)]


def test_progress_counts_every_byte_once(tmp_path: Path) -> None:
    base = weights(0, torch.bfloat16)
    source, sources = written(tmp_path, base, experts(base, 2))
    events: list[ProgressEvent] = []
    profile_task_vectors(source, sources, progress=events.append)
    total = 3 * 2 * sum(tensor.numel() for tensor in base.values())
    assert (events[-1].done, events[-1].total) == (total, total)


def test_the_key_follows_contents_names_order_and_densities(tmp_path: Path) -> None:
    base = weights(0, torch.float32)
    source, (one, other) = written(tmp_path, base, experts(base, 2))
    keys = {
        profile_key(source, [one, other]),
        profile_key(source, [other, one]),
        profile_key(source, [one]),
        profile_key(one, [source, other]),
        profile_key(source, [one.model_copy(update={"digest": "f" * 64}), other]),
        profile_key(source, [one, other], densities=(0.1,)),
    }
    assert len(keys) == 6
    assert profile_key(source, [one, other]) in keys


def test_every_bin_value_is_within_half_a_percent_of_all_it_stands_for() -> None:
    values = bin_values()
    magnitudes = np.logspace(-37, 38, 100_000).astype(np.float32)
    bins = magnitudes.view(np.uint32) >> 16
    assert bins.max() < BINS
    assert np.abs(values[bins] / magnitudes - 1).max() < 0.005
    assert values[0] == 0.0
