"""What a person names is a file, or told at once; whoever reads it says so in its own words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from merge_core.errors import MergeflowError, UnreadableError
from merge_core.files.digests import sha256_file
from merge_core.files.named_file import read_named
from merge_core.recipes.parts import Calibration
from tasks.calibration.samples import draw_samples


def test_a_file_is_read_up_to_a_limit_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to("file")
    assert read_named(tmp_path / "link", 4) == b"0123"
    assert read_named(tmp_path / "file", 100) == b"0123456789"


def test_a_fifo_is_refused_by_whoever_reads_what_is_named(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    said = "it is a FIFO, not a file"
    with pytest.raises(OSError, match=said):
        read_named(fifo, 1)
    with pytest.raises(UnreadableError, match=said):
        sha256_file(fifo)
    with pytest.raises(MergeflowError, match=said):
        draw_samples(Calibration(data=str(fifo)), fifo)
