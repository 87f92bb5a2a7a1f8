"""Draws the ladder of rooms: `python -m tests.architecture.picture`.

Rooms and levels are those of the contracts in `pyproject.toml`, the words and the stops of the walk
those of `docs/architecture.md`. So the picture is drawn again when one of them changes.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from html import escape

from tests.architecture.measure import PACKAGES, ROOT

PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
_STOP = re.compile(r"^\| (\d+) \| `(\w+)/(\w+)[^`]*`", re.M)
_SAID = {
    "flows": "what runs",
    "tasks": "the steps of a flow",
    "merge_core": "the library",
}
_COLOURS = {"flows": "#e8f0fe", "tasks": "#e6f4ea", "merge_core": "#fef7e0"}
_LEFT, _WIDTH, _ROW, _BOX, _GAP, _BAND = 130, 970, 33, 27, 6, 14
_CHARACTER = 6.2
"""Width of a letter of the words, in pixels."""


def drawn() -> str:
    """The picture, as SVG that needs no font and no script."""
    page = PAGE.read_text()
    words, stops = words_of(page), stops_of(page)
    parts, top = [], _BAND
    for package in reversed(PACKAGES):
        layers = list(layers_of(package))
        height = len(layers) * _ROW + _GAP
        parts.append(_band(package, top, height))
        for row, rooms in enumerate(layers):
            place = top + _GAP + row * _ROW
            parts += _row(package, rooms, place, words, stops)
        top += height + _BAND
    width = _LEFT + _WIDTH + _BAND
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" width="{width}"'
        ' font-family="sans-serif" font-size="12">\n'
        f'<title>The rooms of mergeflow</title>\n<rect width="{width}" height="{top}"'
        ' fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def words_of(page: str) -> dict[str, str]:
    """What the page's list of rooms says of each, by package and room, `tasks/store`."""
    found: dict[str, str] = {}
    package = ""
    for line in page.partition("\n```\n")[2].partition("\n```\n")[0].splitlines():
        if not line.startswith(" "):
            package = line.partition("/")[0]
            continue
        names, _, said = re.sub(r"\s{2,}", "\n", line.strip()).partition("\n")
        groups, sayings = names.split(" · "), said.split(" · ")
        if len(groups) == len(sayings):
            for group, saying in zip(groups, sayings, strict=True):
                for name in group.split():
                    found[f"{package}/{name.removesuffix('.py')}"] = saying
    return found


def stops_of(page: str) -> dict[str, list[str]]:
    """The numbers of the walk's stops in each room, by package and room."""
    found: dict[str, list[str]] = {}
    for number, package, room in _STOP.findall(page):
        found.setdefault(f"{package}/{room}", []).append(number)
    return found


def layers_of(package: str) -> Iterator[list[str]]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    for contract in contracts["contracts"]:
        if contract.get("containers") == [package]:
            yield from (layer.split(" | ") for layer in contract["layers"])


def _band(package: str, top: int, height: int) -> str:
    middle = top + height // 2
    return (
        f'<rect x="{_BAND}" y="{top}" width="{_LEFT + _WIDTH - _BAND}" height="{height}" rx="6"'
        f' fill="{_COLOURS[package]}"/>\n'
        f'<text x="{_BAND + 10}" y="{middle}" font-size="15" font-weight="bold">{package}/</text>\n'
        f'<text x="{_BAND + 10}" y="{middle + 18}" fill="#555555">{_SAID[package]}</text>'
    )


def _row(
    package: str,
    rooms: list[str],
    top: int,
    words: Mapping[str, str],
    stops: Mapping[str, list[str]],
) -> Iterator[str]:
    width = (_WIDTH - _GAP) / len(rooms) - _GAP
    for index, room in enumerate(rooms):
        left = _LEFT + _GAP + index * (width + _GAP)
        said, numbers = words.get(f"{package}/{room}", ""), stops.get(f"{package}/{room}", [])
        free = width - 20 - 7.6 * len(room) - 19 * len(numbers)
        if _CHARACTER * len(said) > free:
            said = ""
        yield (
            f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{_BOX}" rx="4"'
            ' fill="#ffffff" stroke="#9aa0a6"/>'
        )
        name = f'<tspan font-weight="bold">{room}</tspan>'
        rest = (
            f'<tspan dx="10" fill="#555555" font-size="11">{escape(said.replace("`", ""))}</tspan>'
            if said
            else ""
        )
        yield f'<text x="{left + 8:.0f}" y="{top + 18}">{name}{rest}</text>'
        for place, number in enumerate(reversed(numbers)):
            middle = left + width - 14 - 19 * place
            yield f'<circle cx="{middle:.0f}" cy="{top + _BOX / 2}" r="8.5" fill="#c5221f"/>'
            yield (
                f'<text x="{middle:.0f}" y="{top + 17.5}" text-anchor="middle" font-size="10"'
                f' fill="#ffffff">{number}</text>'
            )


if __name__ == "__main__":
    PICTURE.write_text(drawn())
