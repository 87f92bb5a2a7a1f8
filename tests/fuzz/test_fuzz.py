"""A short run of the fuzzer, in a process of its own since nothing removes an audit hook."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

from tests.fuzz.mutations import as_json, damaged
from tests.fuzz.targets import TARGETS


def test_a_few_hundred_damaged_inputs_are_read_or_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--cases", "300", "--seed", "7"],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^all +300 ", done.stdout, re.MULTILINE), done.stdout
    for target in TARGETS:
        row = re.search(rf"^{target.name} +[\d,]+ +([\d,]+) +([\d,]+) +0 ", done.stdout, re.M)
        assert row, done.stdout
        assert int(row[1]) > 0, (
            "some cases must be accepted, else nothing behind a check is reached"
        )
        assert int(row[2]) > 0, "some cases must be refused"


def test_the_same_seed_makes_the_same_damage() -> None:
    value = {"a": [1, 2, {"b": None}], "c": "text"}

    def made(seed: int) -> bytes:
        rng = random.Random(seed)
        return as_json(damaged(value, rng, 4), rng)

    assert made(1) == made(1)
    assert len({made(seed) for seed in range(50)}) > 40


_OFFENDER = """
import os, sys
from pathlib import Path
from tests.fuzz.watch import Watch
inside = Path(sys.argv[1])
watch = Watch(inside)
with watch.over():
    (inside / "x").read_bytes()
assert not watch.offences and watch.opened == 1
(inside.parent / "y").read_bytes()
assert not watch.offences, "nothing is seen that happens outside of a case"
for offence in (
    lambda: (inside.parent / "y").read_bytes(),
    lambda: (inside / "link").read_bytes(),
    lambda: (inside / "new").write_bytes(b""),
    lambda: (inside / "x").rename(inside / "z"),
    lambda: os.listdir("/"),
    lambda: os.system("true"),
):
    with watch.over():
        offence()
    assert watch.offences
    watch.offences.clear()
print("all seen")
"""


def test_the_watch_sees_what_must_not_happen(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "x").write_bytes(b"")
    (tmp_path / "y").write_bytes(b"")
    (tmp_path / "inside" / "link").symlink_to("../y")
    done = subprocess.run(
        [sys.executable, "-c", _OFFENDER, str(tmp_path / "inside")],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "all seen", done.stderr
