"""What a diagnosis says of the weights, against plain float64 numpy written separately."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from merge_core.errors import CompatibilityError, NonFiniteError
from merge_core.operations import common_tensors as rows_module
from merge_core.operations.common_tensors import common_tensors
from merge_core.operations.diagnosis import clashes as clashes_module
from merge_core.operations.diagnosis import ranks as ranks_module
from merge_core.operations.diagnosis import sample as sample_module
from merge_core.operations.diagnosis.clashes import Clashes
from merge_core.operations.diagnosis.ranks import effective_rank
from merge_core.operations.diagnosis.sample import draw_sample
from merge_core.operations.diagnosis.weights import diagnose_weights, diagnosis_key
from merge_core.records import SourceCheckpoint
from tests.support.checkpoints import write_checkpoint

Vector = npt.NDArray[np.float64]
EMBED, NORM = "model.embed_tokens.weight", "model.norm.weight"


def matrix(layer: int, name: str = "mlp.up_proj") -> str:
    return f"model.layers.{layer}.{name}.weight"


def weights(seed: int, layers: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {EMBED: (90, 24), NORM: (24,)}
    for layer in range(layers):
        shapes |= {matrix(layer): (40, 24), matrix(layer, "self_attn.q_proj"): (24, 24)}
    return {n: (0.05 * torch.randn(s, generator=generator)).to(dtype) for n, s in shapes.items()}


def fine_tune(
    base: dict[str, torch.Tensor], seed: int, rank: int | None = None
) -> dict[str, torch.Tensor]:
    """Changed by a step with a long tail, or by a matrix of some rank; a third is left alone."""
    generator = torch.Generator().manual_seed(100 + seed)
    found = {}
    for name, tensor in base.items():
        step = 0.01 * torch.randn(tensor.shape, generator=generator) ** 3
        if rank is not None and tensor.dim() == 2:
            rows, columns = tensor.shape
            left = torch.randn(rows, rank, generator=generator)
            step = 0.01 * left @ torch.randn(rank, columns, generator=generator)
        elif rank is None:
            step[torch.rand(tensor.shape, generator=generator) < 0.33] = 0
        found[name] = (tensor.float() + step).to(tensor.dtype)
    return found


def written(
    tmp_path: Path, *everything: dict[str, torch.Tensor]
) -> tuple[SourceCheckpoint, list[SourceCheckpoint]]:
    base, *models = (
        write_checkpoint(tmp_path / f"m{i}", each) for i, each in enumerate(everything)
    )
    return base, models


def vector(
    base: dict[str, torch.Tensor], model: dict[str, torch.Tensor], names: list[str]
) -> Vector:
    """The oracle's task vector: float64 throughout."""
    return np.concatenate([(model[n].double() - base[n].double()).numpy().ravel() for n in names])


def check_clashes(found: Clashes, vectors: list[Vector]) -> None:
    """One pair and one election, entry by entry."""
    one, other = vectors
    total = opposed = lost = against = 0.0
    for a, b in zip(one.tolist(), other.tolist(), strict=True):
        total += abs(a) + abs(b)
        lost += abs(a) + abs(b) - abs(a + b)
        if a * b < 0:
            opposed += abs(a) + abs(b)
            against += min(abs(a), abs(b))
    assert found.opposed == pytest.approx([opposed / total], rel=1e-5)
    assert found.cancelled == pytest.approx([lost / total], rel=1e-5)
    assert found.outvoted == pytest.approx(against / total, rel=1e-5)


def oracle_rank(delta: Vector) -> float:
    """By the singular values themselves."""
    values = np.linalg.svd(delta, compute_uv=False)
    shares = values[values > 1e-12 * values[0]] / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_conflicts_by_magnitude_are_those_of_whole_float64_vectors(
    tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "_RUN", 512)
    monkeypatch.setattr(clashes_module, "_BLOCK", 100)
    base = weights(0, 2, dtype)
    models = [fine_tune(base, 1), fine_tune(base, 2)]
    found = diagnose_weights(*written(tmp_path, base, *models))
    check_clashes(found.clashes, [vector(base, model, list(base)) for model in models])
    assert [each.name for each in found.layer_clashes] == ["model.layers.0", "model.layers.1"]
    for layer, each in enumerate(found.layer_clashes):
        names = [matrix(layer), matrix(layer, "self_attn.q_proj")]
        check_clashes(each, [vector(base, model, names) for model in models])


def test_an_election_among_three_drops_what_the_sum_outvotes(tmp_path: Path) -> None:
    base = {NORM: torch.zeros(3)}
    steps = ([1.0, -2.0, 0.0], [1.0, 3.0, -1.0], [-4.0, 1.0, 1.0])
    models = [{NORM: torch.tensor(step)} for step in steps]
    found = diagnose_weights(*written(tmp_path, base, *models)).clashes
    # The sums are -2, +2 and 0, which counts as +.
    assert found.outvoted == pytest.approx((1 + 1 + 2 + 1) / 14, rel=1e-5)


def test_effective_ranks_are_those_of_the_singular_values(tmp_path: Path) -> None:
    base = weights(0, 2, torch.float32)
    models = [fine_tune(base, 1), fine_tune(base, 2, rank=3), dict(base)]
    found = diagnose_weights(*written(tmp_path, base, *models))
    assert {each.name for each in found.matrices} == {n for n in base if base[n].dim() == 2}
    for each in found.matrices:
        for rank, model in zip(each.ranks[:2], models, strict=False):
            delta = (model[each.name].double() - base[each.name].double()).numpy()
            assert rank == pytest.approx(oracle_rank(delta), rel=1e-3)
        assert each.ranks[2] is None, "the third is the base itself"
        assert each.ranks[1] is not None
        assert each.ranks[1] < 3.05, "a matrix of rank 3, rounded to float32"
        assert (each.rows, each.possible) == (each.of_rows, 24)
    [part] = [each for each in found.ranks if each.name == "model.layers.1"]
    inside = [each.ranks[0] for each in found.matrices if each.part == part.name]
    assert part.shares[0] == pytest.approx(np.mean([r / 24 for r in inside if r]), rel=1e-4)
    assert part.shares[2] is None


def test_of_large_models_some_rows_and_some_layers_stand_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks_module, "MOST_ROWS", 10)
    monkeypatch.setattr(ranks_module, "MOST_LAYERS", 3)
    monkeypatch.setattr(ranks_module, "_CHUNK", 64)
    base = weights(0, 9, torch.float32)
    model = fine_tune(base, 1)
    found = diagnose_weights(*written(tmp_path, base, model)).matrices
    layers = [each.part for each in found if each.name.endswith("up_proj.weight")]
    assert layers == ["model.layers.0", "model.layers.4", "model.layers.8"]
    [one] = [each for each in found if each.name == matrix(4)]
    assert (one.of_rows, one.rows, one.possible) == (40, 10, 10)
    rows = [place * 39 // 9 for place in range(10)]
    delta = (model[one.name].double() - base[one.name].double()).numpy()[rows]
    assert one.ranks[0] == pytest.approx(oracle_rank(delta), rel=1e-3)


def test_the_rank_of_equal_singular_values_is_their_number_and_rounding_counts_for_none() -> None:
    assert effective_rank(np.eye(7)) == pytest.approx(7.0)
    row = np.arange(1.0, 6.0)[:, None]
    assert effective_rank(row @ row.T) == pytest.approx(1.0, abs=1e-9)
    assert effective_rank(np.zeros((4, 4))) is None


@pytest.mark.parametrize("whole", [0, 1 << 18])
def test_a_sample_is_one_entry_of_each_stratum_and_always_the_same(
    tmp_path: Path, whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_module, "_WHOLE", whole)
    base = weights(0, 2, torch.bfloat16)
    models = [fine_tune(base, 1), fine_tune(base, 2)]
    rows, _ = common_tensors(*written(tmp_path, base, *models))
    sample = draw_sample(rows, 64)
    assert sample == draw_sample(rows, 64)
    assert sample.of == sum(tensor.numel() for tensor in base.values())
    starts, at = {}, 0
    for row in rows:
        starts[row[0].name] = at
        at += row[0].numel
    for number, (tensor, place) in enumerate(zip(sample.tensors, sample.places, strict=True)):
        name = sample.names[tensor]
        stratum = number * sample.of // 64, (number + 1) * sample.of // 64
        assert stratum[0] <= starts[name] + place < stratum[1]
        for values, source in zip([sample.base, *sample.models], [base, *models], strict=True):
            assert values[number] == float(source[name].flatten()[place])
    if whole:
        assert len(draw_sample(rows, 1 << 20).base) == sample.of, "its own sample"


@pytest.mark.slow
def test_threads_change_nothing(tmp_path: Path) -> None:
    base = weights(0, 3, torch.bfloat16)
    sources = written(tmp_path, base, fine_tune(base, 1), fine_tune(base, 2))
    assert diagnose_weights(*sources, threads=1) == diagnose_weights(*sources, threads=3)


def test_the_key_is_of_contents_and_their_order(tmp_path: Path) -> None:
    base = weights(0, 1, torch.float32)
    source, [one, other] = written(tmp_path, base, fine_tune(base, 1), fine_tune(base, 2))
    keys = {
        diagnosis_key(source, [one, other]),
        diagnosis_key(source, [other, one]),
        diagnosis_key(source, [one]),
        diagnosis_key(one, [source, other]),
    }
    assert len(keys) == 4
    assert diagnosis_key(source, [one]) == diagnosis_key(source, [one])


def test_weights_that_cannot_be_measured_are_refused(tmp_path: Path) -> None:
    base = weights(0, 1, torch.float32)
    broken = fine_tune(base, 1)
    broken[EMBED][3, 3] = float("nan")
    with pytest.raises(NonFiniteError, match="embed_tokens"):
        diagnose_weights(*written(tmp_path / "a", base, broken))
    with pytest.raises(CompatibilityError, match="no float tensor in common"):
        diagnose_weights(*written(tmp_path / "b", base, {"other.weight": torch.zeros(3)}))
