"""Prints the ladder of rooms: `python -m tests.architecture [--tree DIR]`.

Another tree, to compare with, is one that `git archive COMMIT | tar -x -C DIR` made. The exit code
is 1 for a circle, a room without its words and a file that is too long.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.architecture.measure import (
    MOST_LINES,
    PACKAGES,
    ROOT,
    Room,
    lacking_words,
    structure,
    too_long,
)


def main() -> None:
    """Print what `structure` finds, the top of the ladder first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, default=ROOT, help="default: this project")
    tree = parser.parse_args().tree.resolve()
    found = structure(tree)
    for package in reversed(PACKAGES):
        print(f"{package}/")
        rooms = [room for room in found.rooms if room.name.split(".")[0] == package]
        for room in reversed(rooms):
            if room.name != package:
                print(_line(room))
    for package in PACKAGES:
        print(f"{package}: {found.files[package]} files, {found.statements[package]} statements")
    print(f"in all: {sum(found.files.values())} files, {sum(found.statements.values())} statements")
    print(f"rooms: {len(found.rooms)}; levels of imports among modules: {found.module_levels}")
    for kind, circles in (("modules", found.circles), ("rooms", found.room_circles)):
        print(f"circles among {kind}: {len(circles)}")
        for names in circles:
            print("  " + ", ".join(names))
    wordless, long = lacking_words(tree), too_long(tree)
    print(f"rooms without their words: {len(wordless)}")
    for name in wordless:
        print(f"  {name}")
    print(f"files of more than {MOST_LINES} lines: {len(long)}")
    for text in long:
        print(f"  {text}")
    if found.circles or found.room_circles or wordless or long:
        raise SystemExit(1)


def _line(room: Room) -> str:
    name = room.name.split(".", 1)[1]
    first = room.words.split("\n")[0]
    return f"  {room.level:2}  {name:20.20} {room.files:4} {room.statements:6}  {first:.100}"


if __name__ == "__main__":
    main()
