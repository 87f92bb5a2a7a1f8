"""The ladder of rooms stays what it is: no circle, a word for each room, no file too long."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.measure import (
    MOST_LINES,
    PACKAGES,
    ROOT,
    lacking_words,
    structure,
    too_long,
)


def test_there_is_no_circle_of_imports_and_every_module_was_looked_at() -> None:
    found = structure()
    assert found.circles == ()
    assert found.room_circles == ()
    assert {room.name.split(".")[0] for room in found.rooms} == set(PACKAGES)
    assert sum(found.files.values()) == sum(
        len(list((ROOT / package).rglob("*.py"))) for package in PACKAGES
    )


def test_every_room_says_what_it_is_for_and_what_is_public() -> None:
    assert lacking_words(ROOT) == []


def test_no_file_is_too_long() -> None:
    assert too_long(ROOT) == []


def test_importing_the_library_takes_no_time_and_no_torch() -> None:
    """Seconds of the processor, the fewest of a few tries: other programs run beside this test."""
    code = (
        "import sys, time; started = time.process_time(); import merge_core;"
        " print(time.process_time() - started, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    seconds = []
    for _ in range(3):
        command = [sys.executable, "-c", code]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        took, *loaded = answer.stdout.split()
        assert loaded == ["False", "False"]
        seconds.append(float(took))
    assert min(seconds) < 0.1


# --- what the checks find -------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three packages with a room each, in order."""
    words = '"""A room for something.\n\nPublic: `thing`.\n"""\n'
    for package in PACKAGES:
        room = tmp_path / package / "room"
        room.mkdir(parents=True)
        for directory in (room, room.parent):
            (directory / "__init__.py").write_text(words)
        (room / "thing.py").write_text("THING = 1\n")
    (tmp_path / "tests").mkdir()
    return tmp_path


def test_a_room_in_order_is_not_named(tree: Path) -> None:
    assert lacking_words(tree) == []
    assert too_long(tree) == []


@pytest.mark.parametrize(
    "words",
    [None, "", '"""A room. Public: `thing`."""\n', '"""A room\n\nfor something.\n"""\n'],
    ids=["no file", "no docstring", "one line", "nothing public"],
)
def test_a_room_without_its_words_is_named(tree: Path, words: str | None) -> None:
    front = tree / "tasks" / "room" / "__init__.py"
    if words is None:
        front.unlink()
    else:
        front.write_text(words)
    assert lacking_words(tree) == ["tasks.room"]


def test_a_directory_without_python_is_no_room(tree: Path) -> None:
    (tree / "flows" / "room" / "pages").mkdir()
    (tree / "flows" / "room" / "pages" / "page.html").touch()
    assert lacking_words(tree) == []


@pytest.mark.parametrize("place", ["merge_core/room/thing.py", "tests/test_thing.py"])
def test_a_file_that_is_too_long_is_named_with_its_lines(tree: Path, place: str) -> None:
    path = tree / place
    path.write_text("\n" * MOST_LINES)
    assert too_long(tree) == []
    path.write_text("\n" * (MOST_LINES + 1))
    assert too_long(tree) == [f"{place}: {MOST_LINES + 1} lines"]


def test_circles_among_modules_and_rooms_are_told_and_end_the_command(tree: Path) -> None:
    """In a process of its own: one process measures one tree."""
    other = tree / "merge_core" / "other"
    other.mkdir()
    (other / "__init__.py").write_text(ast.unparse(ast.parse('"""Another.\n\nPublic: none."""')))
    (other / "one.py").write_text("import merge_core.room.thing\n")
    (other / "two.py").write_text("import merge_core.other.three\n")
    (other / "three.py").write_text("from merge_core.other import two\n")
    (tree / "merge_core" / "room" / "back.py").write_text("from merge_core.other import two\n")
    command = [sys.executable, "-m", "tests.architecture", "--tree", str(tree)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 1, ended.stderr
    said = ended.stdout
    assert "circles among modules: 1\n  merge_core.other.three, merge_core.other.two" in said
    assert "circles among rooms: 1\n  merge_core.other, merge_core.room" in said


def test_the_command_ends_well_for_this_project_and_names_a_file_that_is_too_long(
    tree: Path,
) -> None:
    command = [sys.executable, "-m", "tests.architecture", "--tree", str(tree)]
    assert subprocess.run(command, capture_output=True, cwd=ROOT).returncode == 0
    (tree / "tasks" / "room" / "thing.py").write_text("\n" * (MOST_LINES + 1))
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 1
    assert f"tasks/room/thing.py: {MOST_LINES + 1} lines" in ended.stdout
