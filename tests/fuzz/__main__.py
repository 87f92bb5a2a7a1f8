"""Runs the fuzzer: `python -m tests.fuzz --cases 100000 --seed 0`. Exit code 1 for any failure."""

from __future__ import annotations

import argparse
import faulthandler
import gc
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from merge_core.errors import MergeflowError
from tests.fuzz.targets import TARGETS, Target
from tests.fuzz.watch import Watch

_MOST_SECONDS = 2.0
"""CPU time of one case."""
_MOST_GROWTH = 256
"""MiB of peak memory over that of the valid files."""
_HANGS_AFTER = 120
_GUARDED = 200
_LONGEST_MESSAGE = 10_000
_IN_MEMORY = "/dev/shm"
"""Where Linux keeps files in memory."""
_WARM_UP = 30
_MOST_SHOWN = 5


@dataclass
class Tally:
    """What became of the cases of one target."""

    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0
    seconds: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="directory for the files of failing cases")
    options = parser.parse_args()
    memory = _IN_MEMORY if Path(_IN_MEMORY).is_dir() else None
    with tempfile.TemporaryDirectory(prefix="mergeflow-fuzz-", dir=memory) as root:
        return _run(Path(root).resolve(), options.cases, options.seed, options.keep)


def _run(root: Path, cases: int, seed: int, keep: Path | None) -> int:
    targets = [kind(root / kind.name.replace(" ", "-")) for kind in TARGETS]
    watches = {target.name: Watch(target.directory) for target in targets}
    for target in targets:  # what is imported on the way is not a case's doing
        for case in range(_WARM_UP):
            _try(target, random.Random(f"warm-up {seed} {case}"))
    gc.collect()
    before = _peak()
    tallies = {target.name: Tally() for target in targets}
    started = time.perf_counter()
    for target in targets:
        tally, watch = tallies[target.name], watches[target.name]
        for case in range(round(cases * target.share)):
            if case % _GUARDED == 0:  # a case that hangs is seen in the dump, not waited for
                faulthandler.dump_traceback_later(_HANGS_AFTER, exit=True)
            problem = _case(target, watch, tally, random.Random(f"{seed} {target.name} {case}"))
            if problem:
                kind, text = problem
                tally.failures[kind] += 1
                if tally.failures[kind] == 1 and len(tally.failures) <= _MOST_SHOWN:
                    print(f"\n{target.name}, seed {seed}, case {case}:\n{text}", flush=True)
                    if keep:
                        shutil.copytree(
                            target.directory, keep / f"{target.name}-{case}", symlinks=True
                        )
    faulthandler.cancel_dump_traceback_later()
    growth = _peak() - before
    return _report(tallies, watches, time.perf_counter() - started, before, growth)


def _case(target: Target, watch: Watch, tally: Tally, rng: random.Random) -> tuple[str, str] | None:
    """Run one case; what was wrong with it, if anything: in short, and in full."""
    target.damage(rng)
    files = _listing(target.directory)
    began = time.thread_time()
    problem: tuple[str, str] | None = None
    try:
        with watch.over():
            target.read()
        tally.accepted += 1
    except MergeflowError as error:
        tally.refused += 1
        message = str(error)
        if len(message) > _LONGEST_MESSAGE or not message.replace("\n", "").isprintable():
            problem = ("message", f"a message of {len(message)} characters: {message[:500]!r}")
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        problem = (
            f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}",
            "".join(traceback.format_exception(error, limit=-6)),
        )
    spent = time.thread_time() - began
    tally.seconds += spent
    tally.slowest = max(tally.slowest, spent)
    if spent > _MOST_SECONDS:
        problem = ("slow", f"took {spent:.1f} s of CPU time")
    if watch.offences:
        problem = ("access", "; ".join(watch.offences))
        watch.offences.clear()
    if _listing(target.directory) != files:
        problem = ("files", "the files of the directory have changed")
    return problem


def _try(target: Target, rng: random.Random) -> None:
    target.damage(rng)
    try:
        target.read()
    except Exception:
        return  # found again, and reported, among the cases


def _listing(directory: Path) -> list[tuple[str, int, int]]:
    """Every path with its size and time of change: nothing may be written."""
    found = []
    for path in directory.rglob("*"):
        status = path.lstat()
        found.append((str(path), status.st_size, status.st_mtime_ns))
    return found


def _report(
    tallies: dict[str, Tally],
    watches: dict[str, Watch],
    seconds: float,
    before: int,
    growth: int,
) -> int:
    print(f"{'target':<12}{'cases':>9}{'accepted':>10}{'refused':>9}{'failed':>8}", end="")
    print(f"{'opened':>9}{'mean ms':>9}{'slowest s':>11}")
    total = Tally()
    for name, tally in tallies.items():
        total.accepted += tally.accepted
        total.refused += tally.refused
        total.failures += tally.failures
        total.slowest = max(total.slowest, tally.slowest)
        total.seconds += tally.seconds
        _print_row(name, tally, watches[name].opened)
    _print_row("all", total, sum(watch.opened for watch in watches.values()))
    print(f"{seconds:.0f} s; peak memory {before + growth} MiB, {growth} MiB over the valid files'")
    for kind, count in total.failures.most_common():
        print(f"FAILED {count}: {kind}")
    if growth > _MOST_GROWTH:
        print(f"FAILED memory grew by {growth} MiB, over {_MOST_GROWTH}")
    return int(bool(total.failures) or growth > _MOST_GROWTH)


def _print_row(name: str, tally: Tally, opened: int) -> None:
    failed = sum(tally.failures.values())
    cases = tally.accepted + tally.refused
    cases += sum(n for kind, n in tally.failures.items() if " at " in kind)
    mean = 1000 * tally.seconds / max(cases, 1)
    print(f"{name:<12}{cases:>9,}{tally.accepted:>10,}{tally.refused:>9,}{failed:>8,}", end="")
    print(f"{opened:>9,}{mean:>9.2f}{tally.slowest:>11.3f}")


def _peak() -> int:
    """Peak resident memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


if __name__ == "__main__":
    sys.exit(main())
