"""Writes the pages of the API reference from the docstrings, without importing what they describe.

There is a page for the library's public face, and a page for each room. The order is that of the
ladder in `pyproject.toml`, from its top to its foot; the library comes first.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("merge_core", "tasks", "flows")
_NAME = re.compile(r"(?<![`\w{}])`([A-Za-z_][\w.]*)`(?!`)")
_LISTS = {"parameters": "Parameters", "attributes": "Attributes", "raises": "Raises"}


def write(directory: Path) -> None:
    """Write `index.md` and the pages that it names, and nothing else, into this directory."""
    pages = {}
    for package in PACKAGES:
        tree = griffe.load(
            package, search_paths=[ROOT], docstring_parser="google", allow_inspection=False
        )
        pages[package] = _front(tree)
        for room in rooms(package):
            pages[f"{package}.{room}"] = _room(tree[room])
    pages["index"] = _index(list(pages))
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        if path.stem not in pages:
            path.unlink()
    for name, text in pages.items():
        path = directory / f"{name}.md"
        # Sphinx reads again what has another time of change.
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


def rooms(package: str) -> Iterator[str]:
    """The rooms of a package from the top of the ladder to its foot."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    for contract in contracts["contracts"]:
        if contract.get("containers") == [package]:
            for layer in contract["layers"]:
                yield from layer.split(" | ")


def _index(names: list[str]) -> str:
    return (
        "# API reference\n\n`merge_core` is the library's public face: `import merge_core` gives"
        " these names. The rooms follow, from the top of the ladder to its foot.\n\n"
        "```{toctree}\n:maxdepth: 1\n\n" + "\n".join(names) + "\n```\n"
    )


def _front(tree: griffe.Module) -> str:
    """A package's own words, and in full what it imports from its rooms for its users."""
    page = f"# {tree.path}\n\n{_text(tree)}"
    for name in sorted(tree.exports or ()):
        place = tree.members.get(str(name))
        if isinstance(place, griffe.Alias):
            page += f"\n## {tree.path}.{name}\n\nFrom `{place.target_path}`.\n\n"
            page += _described(place.final_target, 5, index=False)
    return page


def _room(room: griffe.Module) -> str:
    page = f"# {room.path}\n\n"
    for module in _modules(room):
        if module is not room:
            page += f"\n## {module.path.removeprefix(f'{room.path}.')}\n\n"
        page += f"```{{py:module}} {module.path}\n```\n\n{_text(module)}"
        page += "".join(_described(member, 5) for member in _public(module))
    return page


def _modules(room: griffe.Module) -> Iterator[griffe.Module]:
    """A room's modules: its front, then those below it by name."""
    yield room
    for name in sorted(room.modules):
        if name != "__main__":
            yield from _modules(room.modules[name])


def _public(place: griffe.Module | griffe.Class) -> Iterator[griffe.Object]:
    for name, member in place.members.items():
        if not name.startswith("_") and not member.is_alias and not member.is_module:
            yield member


def _described(item: griffe.Object, fence: int, *, index: bool = True) -> str:
    """A directive of Sphinx's for one class, function or value; members of a class lie in it."""
    kind, signature = _signature(item)
    body = _text(item)
    if item.is_class:
        body += "".join(
            _described(member, fence - 1, index=index)
            for member in _public(item)
            if member.docstring
        )
    option = f":module: {item.module.path}\n" + ("" if index else ":no-index:\n")
    ticks = "`" * fence
    return f"{ticks}{{py:{kind}}} {signature}\n{option}\n{body}{ticks}\n\n"


def _signature(item: griffe.Object) -> tuple[str, str]:
    inside = item.parent is not None and item.parent.is_class
    name = f"{item.parent.name}.{item.name}" if inside else item.name
    if item.is_class:
        bases = ", ".join(map(str, item.bases))
        return "class", f"{name}({bases})" if bases else name
    if item.is_function:
        text = str(item.signature(name=name))
        return "method" if inside else "function", text.replace("(self, ", "(").replace(
            "(self)", "()"
        )
    return "attribute" if inside else "data", name


def _text(item: griffe.Object) -> str:
    """A docstring in Markdown, its sections as lists."""
    parts = []
    for section in item.docstring.parsed if item.docstring else ():
        kind = section.kind.value
        if kind == "text":
            parts.append(section.value)
        elif kind in _LISTS:
            parts.append(f"**{_LISTS[kind]}**\n\n" + "\n".join(map(_entry, section.value)))
        elif kind in ("returns", "yields"):
            text = " ".join(value.description for value in section.value)
            parts.append(f"**{kind.title()}** {text}")
        elif kind == "admonition":
            parts.append(f"**{section.title}** {section.value.description}")
        else:
            raise ValueError(f"{item.path}: no way to show a section of the kind {kind!r}")
    return _linked("".join(f"{part}\n\n" for part in parts), item)


def _entry(value: griffe.DocstringParameter | griffe.DocstringRaise) -> str:
    name = getattr(value, "name", None) or value.annotation
    text = value.description.replace("\n", "\n  ")
    return f"* ``{name}``: {text}"


def _linked(text: str, item: griffe.Object) -> str:
    """The text with names in backticks as links, where they name something of this reference."""

    def link(match: re.Match[str]) -> str:
        try:
            place = item.resolve(match[1])
        except griffe.NameResolutionError:
            return match[0]
        own = place.split(".")[0] in PACKAGES and place != item.path
        return f"{{py:obj}}`{match[1]} <{place}>`" if own else match[0]

    return _NAME.sub(link, text)
