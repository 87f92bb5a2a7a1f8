"""Measures a tree of the project: statements, rooms, levels of imports and circles."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

import grimp
import networkx

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("merge_core", "tasks", "flows")
"""From the foot of the ladder to its top."""
MOST_LINES = 400
"""Of a file of the packages or of the tests."""


@dataclass(frozen=True)
class Room:
    """A package of the ladder: a directory in one of the three packages, or the package itself.

    Attributes:
        name: dotted, such as `merge_core.engine.run`.
        level: 0 for a room that imports no other; else one more than the highest that it imports.
        files: Python files in it and below it, those of smaller rooms in it included.
        statements: of these files, as `statements` counts them.
        words: the docstring of its `__init__.py`, or `""`.
    """

    name: str
    level: int
    files: int
    statements: int
    words: str


@dataclass(frozen=True)
class Structure:
    """What a tree looks like.

    Attributes:
        rooms: by level, then by name.
        module_levels: the longest chain of imports among all modules, in modules.
        circles: groups of modules that import each other, each sorted.
        room_circles: groups of rooms that import each other.
        statements: by package.
        files: by package.
    """

    rooms: tuple[Room, ...]
    module_levels: int
    circles: tuple[tuple[str, ...], ...]
    room_circles: tuple[tuple[str, ...], ...]
    statements: dict[str, int]
    files: dict[str, int]


def statements(path: Path) -> int:
    """The statements of a file, without docstrings.

    Raises:
        SyntaxError: the file is not Python.
    """
    nodes = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.stmt)]
    return sum(not _is_text(node) for node in nodes)


def structure(tree: Path = ROOT) -> Structure:
    """Measure the three packages of a tree. Nothing of it is imported or run.

    Args:
        tree: the directory that holds the packages. One process measures one tree.
    """
    if tree != ROOT:
        sys.path.insert(0, str(tree))
    graph = grimp.build_graph(*PACKAGES, cache_dir=None, exclude_type_checking_imports=True)
    modules = networkx.DiGraph()
    modules.add_nodes_from(graph.modules)
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            # A package runs before its modules do; that they import from it is no circle of ours.
            if not module.startswith(f"{imported}."):
                modules.add_edge(module, imported)
    of_rooms = networkx.DiGraph()
    of_rooms.add_nodes_from(map(_room, modules))
    for module, imported in modules.edges:
        if _room(module) != _room(imported):
            of_rooms.add_edge(_room(module), _room(imported))
    levels = _levels(of_rooms)
    files = {package: sorted((tree / package).rglob("*.py")) for package in PACKAGES}
    return Structure(
        rooms=tuple(
            sorted((_measured(tree, name, levels[name]) for name in of_rooms), key=_by_level)
        ),
        module_levels=max(_levels(modules).values()) + 1,
        circles=_circles(modules),
        room_circles=_circles(of_rooms),
        statements={package: sum(map(statements, paths)) for package, paths in files.items()},
        files={package: len(paths) for package, paths in files.items()},
    )


def lacking_words(tree: Path) -> list[str]:
    """Rooms, at any depth, whose `__init__.py` does not say what they are for and what is public.

    That takes a docstring of two lines or more, with the word "public" in it.
    """
    found = []
    for package in PACKAGES:
        rooms = {path.parent for path in (tree / package).rglob("*.py")}
        for room in sorted(rooms):
            words = _words(room / "__init__.py")
            if len(words.splitlines()) < 2 or "public" not in words.lower():
                found.append(".".join(room.relative_to(tree).parts))
    return found


def too_long(tree: Path) -> list[str]:
    """Files of the packages and of the tests with more than `MOST_LINES` lines, and how many."""
    found = []
    for top in (*PACKAGES, "mergeflow", "tests"):
        for path in sorted((tree / top).rglob("*.py")):
            lines = len(path.read_bytes().splitlines())
            if lines > MOST_LINES:
                found.append(f"{path.relative_to(tree).as_posix()}: {lines} lines")
    return found


def _words(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_bytes())) or "" if path.is_file() else ""


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _room(module: str) -> str:
    """A module's room: the directory below its package, or the file beside these directories."""
    return ".".join(module.split(".")[:2])


def _levels(graph: networkx.DiGraph) -> dict[str, int]:
    """How long the longest way down is from each node; a circle counts as one node."""
    condensed = networkx.condensation(graph)
    levels: dict[int, int] = {}
    for node in reversed(list(networkx.topological_sort(condensed))):
        below = [levels[imported] for imported in condensed.successors(node)]
        levels[node] = 1 + max(below, default=-1)
    return {name: levels[condensed.graph["mapping"][name]] for name in graph}


def _circles(graph: networkx.DiGraph) -> tuple[tuple[str, ...], ...]:
    found = networkx.strongly_connected_components(graph)
    return tuple(sorted(tuple(sorted(names)) for names in found if len(names) > 1))


def _measured(tree: Path, name: str, level: int) -> Room:
    place = tree.joinpath(*name.split("."))
    one_file = place.with_suffix(".py")
    if one_file.is_file():
        paths, front = [one_file], one_file
    elif "." in name:
        paths, front = sorted(place.rglob("*.py")), place / "__init__.py"
    else:
        paths = [place / "__init__.py"]
        front = paths[0]
    return Room(
        name=name,
        level=level,
        files=len(paths),
        statements=sum(map(statements, paths)),
        words=_words(front),
    )


def _by_level(room: Room) -> tuple[int, str]:
    return room.level, room.name
