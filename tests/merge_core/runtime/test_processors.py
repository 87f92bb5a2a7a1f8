"""A container's limit of processor time counts as well as the processors in sight."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from merge_core.runtime import processors as module
from merge_core.runtime.processors import processors, quota


def write(place: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/pods/a\n", {"pods/cpu.max": "200000 100000", "pods/a/cpu.max": "max 100000"}, 2.0),
        ("0::/pods/a\n", {"pods/cpu.max": "max 100000", "pods/a/cpu.max": "50000 100000"}, 0.5),
        ("0::/not/in/sight\n", {"cpu.max": "300000 100000"}, 3.0),
        ("0::/../beside\n", {"cpu.max": "300000 100000"}, 3.0),
        (
            "4:cpu,cpuacct:/a\n0::/\n",
            {"cpu/a/cpu.cfs_quota_us": "400000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            4.0,
        ),
        (
            "4:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            math.inf,
        ),
        ("4:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "1"}, math.inf),
        ("0::/\n", {}, math.inf),
        ("0::/\n", {"cpu.max": "nonsense"}, math.inf),
        ("0::/\n", {"cpu.max": "100000 0"}, math.inf),
        ("\n0:\nnonsense\n0::/a\x0bb\u2028c\n0::\n0::/\n", {"cpu.max": "200000 100000"}, 2.0),
    ],
)
def test_the_tightest_limit_of_all_groups_above_counts(
    groups: str, files: dict[str, str], expected: float, tmp_path: Path
) -> None:
    write(tmp_path / "mount", files)
    write(tmp_path, {"membership": groups})
    assert quota(tmp_path / "membership", tmp_path / "mount") == expected


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert quota(tmp_path / "membership", tmp_path) == math.inf


@pytest.mark.parametrize(("allowed", "expected"), [(0.2, 1), (1.0, 1), (1.5, 2), (math.inf, 5)])
def test_part_of_a_processor_counts_as_one(
    allowed: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)))
    monkeypatch.setattr(module, "_quota", lambda: allowed)
    assert processors() == expected
