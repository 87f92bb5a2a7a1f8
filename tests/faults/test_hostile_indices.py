"""Indices, shards and what stands in their place: nothing outside the directory is read."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.checkpoints.sources import describe_source
from merge_core.errors import CheckpointError
from merge_core.files.digests import DigestMemo
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.safetensors_header import TensorEntry
from tests.support.hostile_files import FIRST, INDEX, SECOND, opened_apart, put, sharded, sound

BOTH = {"a": FIRST, "b": SECOND}

INDICES: dict[str, tuple[Any, str]] = {
    "a way up": ({"weight_map": {"a": f"../{FIRST}", "b": SECOND}}, "not a file of this directory"),
    "an absolute path": ({"weight_map": {"a": "/etc/passwd"}}, "not a file of this directory"),
    "an absolute weight file": ({"weight_map": {"a": "/x.safetensors"}}, "not a file of this dir"),
    "a directory below": ({"weight_map": {"a": f"sub/{FIRST}"}}, "a directory below, which is not"),
    "the directory itself": ({"weight_map": {"a": "."}}, "not a file of this directory"),
    "no name": ({"weight_map": {"a": ""}}, "not a file of this directory"),
    "a NUL byte": ({"weight_map": {"a": "x\0.safetensors"}}, "not a file of this directory"),
    "a line break": ({"weight_map": {"a": "x\n.safetensors"}}, "not a file of this directory"),
    "a terminal escape": ({"weight_map": {"a": "\x1b[2J.safetensors"}}, "not a file of this dir"),
    "half a surrogate pair": ('{"weight_map":{"a":"\\udc80.safetensors"}}', "is not JSON"),
    "a name of 5 000 characters": (
        {"weight_map": {"a": "x" * 5000 + ".safetensors"}},
        "not a file of this directory",
    ),
    "a name of 255 letters and 510 bytes": (
        {"weight_map": {"a": "é" * 243 + ".safetensors"}},
        "not a file of this directory",
    ),
    "a shard of another kind": ({"weight_map": {"a": "weights.bin"}}, "not a file of this dir"),
    "a missing shard": ({"weight_map": {**BOTH, "c": "c.safetensors"}}, "c.safetensors is missing"),
    "an extra shard": ({"weight_map": {"a": FIRST}}, f"{SECOND} is not named"),
    "a tensor in the wrong shard": ({"weight_map": {"a": SECOND, "b": FIRST}}, "not in"),
    "a tensor that is nowhere": (
        {"weight_map": {**BOTH, "c": FIRST}},
        "lists 1 tensor that no shard holds: c",
    ),
    "a tensor that is not listed": (
        {"weight_map": {"a": FIRST, "c": SECOND}},
        "lists 1 tensor that no shard holds: c",
    ),
    "a tensor twice": (
        f'{{"weight_map":{{"a":"{FIRST}","b":"{SECOND}","a":"{FIRST}"}}}}',
        "'a' appears twice",
    ),
    "two weight maps": (
        f'{{"weight_map":{json.dumps(BOTH)},"weight_map":{json.dumps(BOTH)}}}',
        "'weight_map' appears twice",
    ),
    "no weight map": ({"metadata": {}}, "no usable weight_map"),
    "a weight map that is a list": ({"weight_map": [FIRST]}, "no usable weight_map"),
    "a shard that is a number": ({"weight_map": {"a": 1}}, "no usable weight_map"),
    "an empty weight map": ({"weight_map": {}}, "is not named"),
    "metadata that is a list": ({"metadata": [], "weight_map": BOTH}, "metadata that is not"),
    "metadata that is a number": ({"metadata": 1, "weight_map": BOTH}, "metadata that is not"),
    "metadata that is null": ({"metadata": None, "weight_map": BOTH}, "metadata that is not"),
    "a list": ("[]", "not a plain JSON object"),
    "no JSON": ("{", "is not JSON"),
    "nothing": ("", "is not JSON"),
    "JSON in UTF-16": ('{"weight_map":{}}'.encode("utf-16").decode("latin-1"), "is not JSON"),
    "JSON 100 000 deep": ('{"a":' + "[" * 100_000, "nested too deeply"),
    "JSON 100 deep": ('{"a":' + "[" * 100 + "]" * 100 + "}", "not a plain JSON object"),
    "a number of 5 000 digits": ('{"metadata":{"total_size":' + "9" * 5000 + "}}", "is not JSON"),
}


@pytest.mark.parametrize("attack", INDICES)
def test_an_index_is_refused_for(attack: str, tmp_path: Path) -> None:
    index, message = INDICES[attack]
    sharded(tmp_path / "checkpoint", index)
    (tmp_path / FIRST).write_bytes(sound("a"))
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path / "checkpoint")
    assert len(str(caught.value)) < 1000
    assert str(caught.value).replace("\n", "").isprintable()


def test_two_shards_and_a_sound_index_are_read(tmp_path: Path) -> None:
    assert list(open_checkpoint(sharded(tmp_path / "checkpoint")).tensors) == ["a", "b"]


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / SECOND).write_bytes(sound("a", "b"))
    with pytest.raises(CheckpointError, match="'a' is in two shards"):
        open_checkpoint(tmp_path)


@pytest.mark.slow
def test_an_index_of_a_million_tensors_is_refused_in_bounded_time_and_memory(
    tmp_path: Path,
) -> None:
    sharded(tmp_path, {"weight_map": {f"layers.{i}.weight": FIRST for i in range(1_000_000)}})
    outcome = opened_apart(tmp_path)
    assert outcome.message
    assert outcome.seconds < 20
    assert outcome.mebibytes < 700


def test_an_index_of_more_values_than_any_model_has_is_refused_before_it_is_parsed(
    tmp_path: Path,
) -> None:
    put(tmp_path, model__safetensors=sound("a"), config__json="[" + "{}," * 8_000_000 + "0]")
    outcome = opened_apart(tmp_path)
    assert "config.json is not JSON: it holds more than 4,000,000 values" in outcome.message
    assert outcome.mebibytes < 128


Something = Callable[[Path], None]


def a_directory(path: Path) -> None:
    path.mkdir()


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def a_device(path: Path) -> None:
    try:
        os.mknod(path, 0o20666, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("only root makes devices")


def a_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_link_out(path: Path) -> None:
    outside = path.parent.parent / "outside"
    outside.write_bytes(sound("a") if path.suffix == ".safetensors" else b"{}")
    path.symlink_to(outside)


def a_link_by_a_way_up(path: Path) -> None:
    a_link_out(path)
    path.unlink()
    path.symlink_to("../outside")


def a_link_through_a_link(path: Path) -> None:
    a_link_out(path)
    path.rename(path.parent / "between")
    path.symlink_to("between")


PLACES = {
    "a_directory": "is a directory, not a file",
    "a_fifo": "is a FIFO, not a file",
    "a_socket": "cannot be read|is a socket",
    "a_device": "is a device, not a file",
    "a_link_to_a_device": "a link that leaves",
    "a_link_out": "a link that leaves",
    "a_link_by_a_way_up": "a link that leaves",
    "a_link_through_a_link": "a link that leaves",
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", [FIRST, INDEX, "config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", PLACES)
def test_in_place_of_a_file_is_refused(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "c"
    if name == "model.safetensors":
        checkpoint.mkdir()
    else:
        sharded(checkpoint)
        (checkpoint / name).unlink()
    monkeypatch.chdir(checkpoint)  # a socket's path must be short
    make: Something = globals()[kind]
    make(Path(name) if kind == "a_socket" else checkpoint / name)
    with pytest.raises(CheckpointError, match=PLACES[kind]):
        open_checkpoint(checkpoint)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["tokenizer.json", "merges.txt", "generation_config.json"])
@pytest.mark.parametrize("kind", ["a_fifo", "a_directory", "a_link_out", "a_link_to_a_device"])
def test_in_place_of_a_small_file_is_refused_when_a_checkpoint_is_identified(
    kind: str, name: str, tmp_path: Path
) -> None:
    checkpoint = sharded(tmp_path / "c")
    make: Something = globals()[kind]
    make(checkpoint / name)
    with pytest.raises(CheckpointError, match=PLACES[kind]):
        describe_source("c", checkpoint, DigestMemo(None))


@pytest.mark.parametrize("target", ["nowhere", "tokenizer.json"])
def test_a_link_to_nothing_or_to_itself_is_refused(target: str, tmp_path: Path) -> None:
    checkpoint = sharded(tmp_path / "c")
    (checkpoint / "tokenizer.json").symlink_to(target)
    with pytest.raises(CheckpointError, match=r"leads nowhere|cannot be read"):
        describe_source("c", checkpoint, DigestMemo(None))


def test_links_within_the_directory_are_followed(tmp_path: Path) -> None:
    checkpoint = sharded(tmp_path / "c")
    (checkpoint / "data").mkdir()
    (checkpoint / FIRST).rename(checkpoint / "data" / "blob")
    (checkpoint / FIRST).symlink_to("data/blob")
    assert list(open_checkpoint(checkpoint).tensors) == ["a", "b"]


def snapshot(tmp_path: Path) -> Path:
    """A checkpoint as the Hub's cache keeps it: links into the repository's blobs."""
    directory = sharded(tmp_path / "models--org--name" / "snapshots" / "0123")
    blobs = tmp_path / "models--org--name" / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(directory.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(f"../../blobs/{number}")
    return directory


def test_snapshots_of_the_hubs_cache_are_read_through_their_links(tmp_path: Path) -> None:
    directory = snapshot(tmp_path)
    assert list(open_checkpoint(directory).tensors) == ["a", "b"]
    assert len(describe_source("c", directory, DigestMemo(None)).files) == 4


@pytest.mark.parametrize("target", ["../../other", "../../blobs/../other", "../../../elsewhere"])
def test_a_snapshot_leads_to_its_own_blobs_alone(target: str, tmp_path: Path) -> None:
    directory = snapshot(tmp_path)
    (directory / FIRST).unlink()
    (directory / FIRST).symlink_to(target)
    (directory / target).resolve().write_bytes(sound("a"))
    with pytest.raises(CheckpointError, match="a link that leaves"):
        open_checkpoint(directory)


def test_a_file_that_shrinks_after_it_was_opened_is_named(tmp_path: Path) -> None:
    put(tmp_path, model__safetensors=sound("a", "b"))
    entry = open_checkpoint(tmp_path).tensors["b"]
    assert isinstance(entry, TensorEntry)
    with BlockReader() as reader:
        reader.read(entry, 0, 1)
        os.truncate(entry.path, entry.offset + 4)
        with pytest.raises(CheckpointError, match="ended inside tensor 'b'"):
            reader.read(entry, 0, 2)


@pytest.mark.timeout(10)
def test_a_file_that_becomes_a_fifo_after_it_was_checked_is_not_waited_for(tmp_path: Path) -> None:
    put(tmp_path, model__safetensors=sound("a"))
    entry = open_checkpoint(tmp_path).tensors["a"]
    assert isinstance(entry, TensorEntry)
    entry.path.unlink()
    os.mkfifo(entry.path)
    with BlockReader() as reader, pytest.raises(CheckpointError, match="is a FIFO"):
        reader.read(entry, 0, 1)


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "\u202e", "x\udc80"])
def test_file_names_with_control_characters_are_shown_without_them(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / f"{name}.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a pickle") as caught:
        open_checkpoint(tmp_path)
    assert str(caught.value).replace("\n", "").isprintable()


def test_a_companion_file_with_a_line_break_in_its_name_is_refused(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / f"sentence_\n{'0' * 64}  x_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="control characters"):
        describe_source("c", tmp_path, DigestMemo(None))
