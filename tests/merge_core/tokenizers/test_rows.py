"""Gathered rows are the rows that the map names, bit for bit, in whatever blocks they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.inputs import FeedContext
from merge_core.tensors.safetensors_header import TensorEntry, read_header
from merge_core.tokenizers.rows import GatheredRows, row_map

HEIGHTS, WIDTH = (7, 11), 3


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[TensorEntry]:
    path = tmp_path_factory.mktemp("rows") / "model.safetensors"
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"t{index}": torch.randn(height, WIDTH, generator=generator).to(torch.bfloat16)
        for index, height in enumerate(HEIGHTS)
    }
    save_file(tensors, path)
    return list(read_header(path).values())


class CountingReader(BlockReader):
    """Counts the reads."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def read(self, *args: object, **options: object) -> torch.Tensor:
        self.reads += 1
        return super().read(*args, **options)  # type: ignore[arg-type]


def gathered(
    entries: list[TensorEntry], parts: list[tuple[int, ...]], padding: int = 0
) -> GatheredRows:
    table = np.array(parts, dtype=np.int64).reshape(-1, len(entries))
    shape = (len(table) + padding, WIDTH)
    return GatheredRows("t", "BF16", shape, tuple(entries), row_map(table, padding))


def read_all(made: GatheredRows, block: int, reader: BlockReader) -> torch.Tensor:
    feed = made.open(FeedContext(reader, torch.device("cpu"), block))
    starts = range(0, made.numel, block)
    blocks = [feed.read(start, min(block, made.numel - start)).clone() for start in starts]
    return torch.cat(blocks)


def by_hand(
    entries: list[TensorEntry], parts: list[tuple[int, ...]], padding: int
) -> list[list[float]]:
    """Row by row, value by value, in Python's own arithmetic."""
    with BlockReader() as reader:
        matrices = [
            reader.read(entry, 0, entry.numel).double().view(-1, WIDTH).tolist()
            for entry in entries
        ]
    rows = []
    for sources in parts:
        found = [m[row] for m, row in zip(matrices, sources, strict=True) if row >= 0]
        rows.append([sum(row[i] for row in found) / (len(found) or 1) for i in range(WIDTH)])
    mean = [sum(row[i] for row in rows) / len(rows) for i in range(WIDTH)]
    return rows + [mean] * padding


one_row = st.tuples(*(st.integers(-1, height - 1) for height in HEIGHTS))


@settings(deadline=None)
@given(st.lists(one_row, min_size=1, max_size=30), st.integers(0, 3), st.integers(1, 40))
def test_every_row_is_the_mean_of_its_sources(
    entries: list[TensorEntry], parts: list[tuple[int, ...]], padding: int, block: int
) -> None:
    made = gathered(entries, parts, padding)
    with BlockReader() as reader:
        values = read_all(made, block, reader)
        whole = read_all(made, made.numel, reader)
    assert torch.equal(values, whole)
    expected = torch.tensor(by_hand(entries, parts, padding), dtype=torch.float64).reshape(-1)
    torch.testing.assert_close(values, expected, rtol=1e-15, atol=1e-15)


def test_moved_rows_keep_their_bits(entries: list[TensorEntry]) -> None:
    order = [4, 0, 6, 6, 1]
    with BlockReader() as reader:
        values = read_all(gathered(entries, [(row, -1) for row in order]), 4, reader)
        stored = reader.read(entries[0], 0, entries[0].numel).double().view(-1, WIDTH)
    assert torch.equal(values.view(-1, WIDTH), stored[order])


def test_a_stretch_of_rows_is_one_read(entries: list[TensorEntry]) -> None:
    parts = [(row, -1) for row in range(7)] + [(-1, row) for row in range(3, 9)]
    with CountingReader() as reader:
        read_all(gathered(entries, parts), 1000, reader)
    assert reader.reads == 2


def test_averaged_stretches_are_one_read_of_each_source(entries: list[TensorEntry]) -> None:
    with CountingReader() as reader:
        read_all(gathered(entries, [(row, row + 2) for row in range(7)]), 1000, reader)
    assert reader.reads == 2


def test_a_bias_is_a_table_of_one_column(tmp_path: Path) -> None:
    save_file({"b": torch.arange(5.0)}, tmp_path / "model.safetensors")
    (entry,) = read_header(tmp_path / "model.safetensors").values()
    rows = row_map(np.array([[3], [0], [-1], [1]]), 1)
    made = GatheredRows("b", "F32", (5,), (entry,), rows)
    with BlockReader() as reader:
        assert read_all(made, 2, reader).tolist() == [3.0, 0.0, 0.0, 1.0, 1.0]


def test_the_files_that_rows_come_from_are_named(entries: list[TensorEntry]) -> None:
    assert gathered(entries, [(0, 1)]).entries == tuple(entries)
