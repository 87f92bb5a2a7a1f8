"""Run the whole rule over a grid of truths, through the shipped code, and write what came of it.

    python -m benchmarks.gate --out docs/benchmarks/gate.md
    python -m benchmarks.gate --quick

Exit status 1 when a cell is beyond its bound by more than three simulation errors.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import zlib
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from benchmarks.gate.grid import cells
from benchmarks.gate.sequences import run_sequence, sequence_cells
from benchmarks.gate.simulate import Cell, Outcome, run_cell
from benchmarks.gate.table import page

FULL, QUICK = 20_000, 1000
"""Simulations of a cell. Cells that ask for fewer than `FULL` get the same fraction of theirs."""


def main() -> int:
    """Parse the arguments, run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__)
    parser.add_argument("--out", type=Path, help="the Markdown file to write")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} simulations a cell")
    parser.add_argument("--simulations", type=int, default=FULL, help=f"a cell; {FULL} if not said")
    parser.add_argument("--only", default="", help="families whose name contains this")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    begun = time.monotonic()
    share = (QUICK if arguments.quick else arguments.simulations) / FULL
    outcomes = _run(arguments.only, arguments.seed, arguments.processes, share)
    if not outcomes:
        print(f"no family has '{arguments.only}' in its name", file=sys.stderr)
        return 2
    minutes = (time.monotonic() - begun) / 60
    most = max(outcome.simulations for outcome in outcomes)
    text = page(outcomes, f"Up to {most:,} simulations a cell, seed {arguments.seed}.")
    if arguments.out:
        arguments.out.write_text(text + "\n")
    print(text.partition("\n## Every cell")[0])
    print(f"\n{minutes:.1f} minutes")
    return 0 if all(outcome.holds for outcome in outcomes) else 1


def _run(only: str, seed: int, processes: int, share: float) -> list[Outcome]:
    """All outcomes, in the order of the grid."""
    grid = [cell for cell in cells() if only in cell.family]
    sequences = {cell: how for cell, how in sequence_cells().items() if only in cell.family}
    done: dict[int, Outcome] = {}
    with ProcessPoolExecutor(processes) as pool:
        waiting = {}
        for place, cell in enumerate([*sequences, *grid]):
            own = zlib.crc32(f"{seed} {cell.family} {cell.name}".encode())
            smaller = replace(cell, simulations=max(round(cell.simulations * share), 100))
            if cell in sequences:
                job = pool.submit(run_sequence, smaller, *sequences[cell], own)
            else:
                job = pool.submit(run_cell, smaller, own)
            waiting[job] = place
        for job in as_completed(waiting):
            done[waiting[job]] = job.result()
            _tell(done[waiting[job]].cell, len(done), len(waiting))
    ordered = [done[place] for place in sorted(done)]
    return [*ordered[len(sequences) :], *ordered[: len(sequences)]]


def _tell(cell: Cell, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total}: {cell.family}"[:79].ljust(79), end="", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
