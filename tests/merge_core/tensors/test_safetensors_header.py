"""Hostile and damaged safetensors files are refused with a message, never read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.errors import CheckpointError
from merge_core.tensors.safetensors_header import MAX_HEADER_BYTES, read_header


def file_with(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def tensor(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_a_file_of_the_reference_writer_is_read(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(3, 2), "b": torch.zeros(0, 4, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    header = read_header(tmp_path / "x.safetensors")
    assert {name: (entry.dtype, entry.shape) for name, entry in header.items()} == {
        "a": ("F32", (3, 2)),
        "b": ("BF16", (0, 4)),
    }


HOSTILE: dict[str, tuple[Any, bytes, str]] = {
    "unknown dtype": ({"a": tensor("F33")}, bytes(8), "unknown dtype 'F33'"),
    "negative extent": ({"a": tensor(shape=[-2])}, bytes(8), "impossible shape"),
    "fractional extent": ({"a": tensor(shape=[2.0])}, bytes(8), "impossible shape"),
    "boolean extent": ({"a": tensor("U8", shape=[True], offsets=[0, 1])}, b"x", "impossible shape"),
    "overflowing extents": ({"a": tensor(shape=[1 << 40, 1 << 40])}, bytes(8), "impossible shape"),
    "rank 100": ({"a": tensor(shape=[1] * 100, offsets=[0, 4])}, bytes(4), "impossible shape"),
    "offsets backwards": ({"a": tensor(offsets=[8, 0])}, bytes(8), "impossible data_offsets"),
    "three offsets": ({"a": tensor(offsets=[0, 8, 9])}, bytes(9), "impossible data_offsets"),
    "offsets of the wrong size": ({"a": tensor(offsets=[0, 4])}, bytes(4), "given 4 bytes"),
    "data past the end": ({"a": tensor()}, bytes(4), "truncated"),
    "data left over": ({"a": tensor()}, bytes(9), "after its last tensor"),
    "overlap": ({"a": tensor(), "b": tensor(offsets=[4, 12])}, bytes(12), "overlaps"),
    "gap": ({"a": tensor(), "b": tensor(offsets=[16, 24])}, bytes(24), "leaves a gap"),
    "extra field": ({"a": tensor() | {"x": 1}}, bytes(8), "not described by"),
    "not a tensor": ({"a": 5}, b"", "not described by"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, b"", "__metadata__"),
    "empty name": ({"": tensor()}, bytes(8), "unusable name"),
    "newline in a name": ({"a\nb": tensor()}, bytes(8), "unusable name"),
    "a list": (b"[]", b"", "not a JSON object"),
    "not JSON": (b"{oops}", b"", "not valid JSON"),
    "not UTF-8": (b'{"\xff": 1}', b"", "not valid JSON"),
    "deep JSON": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"", "header"),
    "a key twice": (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"x",
        "appears twice",
    ),
}


@pytest.mark.parametrize("attack", sorted(HOSTILE))
def test_a_hostile_header_is_refused(attack: str, tmp_path: Path) -> None:
    header, data, message = HOSTILE[attack]
    path = file_with(tmp_path / "model.safetensors", header, data)
    with pytest.raises(CheckpointError, match="what to do") as caught:
        read_header(path)
    assert message in str(caught.value)


def test_a_header_length_beyond_the_limit_is_refused_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
    with pytest.raises(CheckpointError, match="claims a header"):
        read_header(path)


@pytest.mark.parametrize("magic", [b"PK\x03\x04", b"\x80\x02}q"])
def test_a_pickle_under_a_safetensors_name_is_refused(magic: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(magic + bytes(100))
    with pytest.raises(CheckpointError, match="pickle or zip"):
        read_header(path)


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580])
def test_a_header_whose_length_begins_like_a_pickle_is_read(length: int, tmp_path: Path) -> None:
    text = json.dumps({"a": tensor()}).encode()
    path = file_with(tmp_path / "model.safetensors", text.ljust(length), bytes(8))
    assert read_header(path)["a"].shape == (2,)


@pytest.mark.parametrize("size", [0, 7])
def test_a_file_without_a_header_is_refused(size: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(size))
    with pytest.raises(CheckpointError, match="too short"):
        read_header(path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bytes_are_read_or_refused(data: st.DataObject, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    good = {"a": tensor(), "b": tensor("BF16", (2, 2), (8, 16))}
    text = bytearray(json.dumps(good).encode())
    for position, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(text) - 1), st.integers(0, 255)), max_size=4)
    ):
        text[position] = byte
    file_with(path, bytes(text), bytes(data.draw(st.integers(0, 20))))
    try:
        header = read_header(path)
    except CheckpointError:
        return
    assert all(entry.offset + entry.nbytes <= path.stat().st_size for entry in header.values())


def write(directory: Path, name: str, **tensors: torch.Tensor) -> None:
    directory.mkdir(exist_ok=True)
    save_file(tensors, directory / name)


def index(directory: Path, **weight_map: str) -> None:
    text = json.dumps({"metadata": {}, "weight_map": weight_map})
    (directory / "model.safetensors.index.json").write_text(text)


def refused(directory: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(directory)


A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def test_shards_and_index_are_read_as_one(tmp_path: Path) -> None:
    write(tmp_path, A, a=torch.ones(2))
    write(tmp_path, B, b=torch.ones(3))
    index(tmp_path, a=A, b=B)
    checkpoint = open_checkpoint(tmp_path)
    assert list(checkpoint.tensors) == ["a", "b"]
    assert checkpoint.parameters == 5


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    write(tmp_path, A, a=torch.ones(2))
    index(tmp_path, a=A, b=B)
    refused(tmp_path, f"shard {B} is missing")


def test_an_extra_shard_is_refused(tmp_path: Path) -> None:
    write(tmp_path, A, a=torch.ones(2))
    write(tmp_path, B, b=torch.ones(2))
    index(tmp_path, a=A)
    refused(tmp_path, f"{B} is not named")


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    write(tmp_path, A, a=torch.ones(2))
    write(tmp_path, B, a=torch.ones(2), b=torch.ones(2))
    index(tmp_path, a=A, b=B)
    refused(tmp_path, "in two shards")


def test_a_tensor_that_the_index_does_not_know_is_refused(tmp_path: Path) -> None:
    write(tmp_path, A, a=torch.ones(2), b=torch.ones(2))
    index(tmp_path, a=A)
    refused(tmp_path, "'b' of .* is not in")


def test_a_tensor_in_another_shard_than_the_index_says_is_refused(tmp_path: Path) -> None:
    write(tmp_path, A, a=torch.ones(2), c=torch.ones(1))
    write(tmp_path, B, b=torch.ones(2))
    index(tmp_path, a=A, b=B, c=B)
    refused(tmp_path, f"'c' is in {A}")


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/hostname", "sub//x.safetensors"])
def test_an_index_that_points_out_of_the_directory_is_refused(shard: str, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", A, a=torch.ones(2))
    write(tmp_path, "outside.safetensors", a=torch.ones(2))
    index(tmp_path / "checkpoint", a=shard)
    refused(tmp_path / "checkpoint", "not a file of this directory")


def test_shards_in_a_directory_below_are_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    write(tmp_path / "checkpoint" / "weights", A, a=torch.ones(2))
    index(tmp_path / "checkpoint", a=f"weights/{A}")
    refused(tmp_path / "checkpoint", f"names the shard 'weights/{A}' in a directory below")


def test_complex_numbers_are_called_so(tmp_path: Path) -> None:
    write(tmp_path, "model.safetensors", freqs_cis=torch.ones(2, dtype=torch.complex64))
    refused(tmp_path, "'freqs_cis' has complex numbers")


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "other", "secret.safetensors", a=torch.ones(2))
    (tmp_path / "checkpoint").mkdir()
    link = tmp_path / "checkpoint" / "model.safetensors"
    link.symlink_to(tmp_path / "other" / "secret.safetensors")
    refused(tmp_path / "checkpoint", "link that leaves")


def test_links_of_the_hub_cache_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "blobs", "abc", a=torch.ones(2))
    snapshot = tmp_path / "snapshots" / "123"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    assert list(open_checkpoint(snapshot).tensors) == ["a"]


def test_a_pickled_checkpoint_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    assert "pickle" in str(caught.value)
    assert "save_pretrained" in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "model.safetensors", a=torch.ones(1000))
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(2000)
    refused(tmp_path, "truncated")


def test_a_lora_adapter_is_not_taken_for_a_model(tmp_path: Path) -> None:
    write(tmp_path, "adapter_model.safetensors", a=torch.ones(2))
    refused(tmp_path, "LoRA adapter")


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no such directory")
