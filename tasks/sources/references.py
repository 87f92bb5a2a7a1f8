"""The meaning of a checkpoint reference: a directory, a Hub repository, a registered model.

A directory is looked for beside the file that names it, then in the current directory; one that
exists always wins over a Hub repository of the same name. A path that does not exist is never
looked for on the Hub; `a/b` is such a path where there is a directory `a`.

BASE+ADAPTER is a base with a LoRA adapter applied, each a reference of its own; a directory with a
plus in its name wins over that.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from merge_core.errors import CheckpointError
from merge_core.homes.home import Home
from merge_core.homes.variables import place_of
from tasks.sources.near_paths import nearest_directory, neighbours

_NAME = r"[A-Za-z0-9][\w.-]*"
_HUB = re.compile(rf"(?P<repository>{_NAME}/{_NAME})(@(?P<revision>[\w./-]+))?")
_HUB_PAGE = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://)"
    rf"({_NAME}/{_NAME})(?:/(?:tree|blob|resolve)/([\w.-]+)(?:/.*)?)?/?$"
)
_REGISTERED = re.compile(r"models:/[^/@]+(@[^/@]+|/[^/@]+)")


@dataclass(frozen=True)
class LocalReference:
    """A directory on this disk."""

    directory: Path


@dataclass(frozen=True)
class HubReference:
    """A repository on the Hugging Face Hub, at a branch, tag or commit (None: its main branch)."""

    repository: str
    revision: str | None
    near: str | None = field(default=None, compare=False)
    """A directory here that may have been meant instead."""


@dataclass(frozen=True)
class RegisteredReference:
    """A version of a registered model in MLflow: `models:/NAME@ALIAS` or `models:/NAME/VERSION`."""

    uri: str


PlainReference = LocalReference | HubReference | RegisteredReference


@dataclass(frozen=True)
class AdaptedReference:
    """A checkpoint with a LoRA adapter applied: `BASE+ADAPTER`."""

    base: PlainReference
    adapter: LocalReference | HubReference
    base_text: str
    """The two as they were written."""
    adapter_text: str


Reference = PlainReference | AdaptedReference


def parse_reference(text: str, beside: Path | None = None, home: Home | None = None) -> Reference:
    """What `text` refers to, with `beside` the directory of the file it is written in.

    A checkpoint, or a checkpoint with an adapter: see `parse_plain` for the parts.

    Raises:
        CheckpointError: neither an existing directory, a Hub repository nor a registered model.
    """
    home = home or Home.if_believed()
    halves = [] if _is_directory(text, beside, home) else _halves(text)
    problem: CheckpointError | None = None
    for base, adapter in halves:
        try:
            return _adapted(base, adapter, beside, home)
        except CheckpointError as error:
            problem = problem or error
    if problem and len(halves) > 1:
        raise CheckpointError(
            f"there are {len(halves)} pluses, and one adapter is applied to one base"
            f" ({problem.where}: {problem.what})",
            where=text,
            mend="write BASE+ADAPTER out by passthrough, and apply the next adapter to the result;"
            " or merge the adapters first (`mergeflow adapter merge`)",
        )
    if problem:
        raise problem
    return parse_plain(text, beside, home)


def parse_plain(text: str, beside: Path | None = None, home: Home | None = None) -> PlainReference:
    """The place that a reference without adapter, or one half of one with it, refers to.

    Paths may have the variables that `merge_core.homes.variables` names.

    Raises:
        CheckpointError: neither an existing directory, a Hub repository nor a registered model.
    """
    if text.startswith("models:"):
        if _REGISTERED.fullmatch(text):
            return RegisteredReference(text)
        raise CheckpointError(
            "this is not a registered model version",
            where=text,
            mend="write models:/NAME@ALIAS or models:/NAME/VERSION",
        )
    path = place_of(text, home)
    tried = _places(path, beside)
    for place in tried:
        if place.is_dir():
            return LocalReference(place)
    hub = _HUB.fullmatch(text)
    if hub and (hub["revision"] or not _begins_here(path, tried)):
        near = next(filter(None, map(nearest_directory, tried)), None)
        written = _as_written(near) if near else None
        return HubReference(hub["repository"], hub["revision"], written)
    raise _nowhere(text, tried, hub is not None)


def _adapted(base: str, adapter: str, beside: Path | None, home: Home) -> AdaptedReference:
    meaning = parse_plain(adapter, beside, home)
    if isinstance(meaning, RegisteredReference):
        raise CheckpointError(
            "an adapter is a directory or a Hub repository, not a registered model", where=adapter
        )
    return AdaptedReference(parse_plain(base, beside, home), meaning, base, adapter)


def _is_directory(text: str, beside: Path | None, home: Home) -> bool:
    path = place_of(text, home)
    return any(place.is_dir() for place in _places(path, beside))


def _halves(text: str) -> list[tuple[str, str]]:
    """The two halves at each plus that has something on both sides, the last plus first."""
    places = [index for index, character in enumerate(text) if character == "+"]
    halves = [(text[:index], text[index + 1 :]) for index in reversed(places)]
    return [(base, adapter) for base, adapter in halves if base and adapter]


def _places(path: Path, beside: Path | None) -> list[Path]:
    roots = [beside.absolute()] if beside else []
    found = [Path(os.path.normpath(root / path)) for root in (*roots, Path.cwd())]
    return list(dict.fromkeys(found))


def _begins_here(path: Path, tried: list[Path]) -> bool:
    """Whether the first part of a relative path is a directory, and no repository of the whole
    name has ever been downloaded."""
    from huggingface_hub import constants

    if not any(place.parent.is_dir() for place in tried):
        return False
    known = "models--" + "--".join(path.parts)
    return not Path(constants.HF_HUB_CACHE, known).is_dir()


def _as_written(place: Path) -> str:
    """A directory as one would write it here: relative, if it is below the current directory."""
    here = Path.cwd()
    return f"./{place.relative_to(here)}" if place.is_relative_to(here) else str(place)


def _nowhere(text: str, tried: list[Path], may_be_on_hub: bool) -> CheckpointError:
    for place in tried:
        if place.is_file():
            return CheckpointError(
                "a checkpoint is a directory, this is a file",
                where=text,
                mend=f"name the directory that holds it: {place.parent}",
            )
    near = next(filter(None, map(nearest_directory, tried)), None)
    there = next(filter(None, map(neighbours, tried)), "")
    page = _HUB_PAGE.match(text)
    if page is not None:
        revision = f"@{page[2]}" if page[2] and page[2] != "main" else ""
        return CheckpointError(
            "this is the address of a repository's page, not its name",
            where=text,
            mend=f"write its name: {page[1]}{revision}",
        )
    hints = [
        *([f"did you mean {_as_written(near)}?"] if near else [there] if there else []),
        *([f"for the Hub, write its branch too: {text}@main"] if may_be_on_hub else []),
    ]
    before = "".join(f"{hint}; " for hint in hints)
    what = "this is not the name of a Hub repository"
    if may_be_on_hub:
        what = f"'{text.partition('/')[0]}' is a directory here, so it is not looked for on the Hub"
    return CheckpointError(
        f"there is no such directory, and {what}",
        where=text,
        mend=f"{before}looked for {', '.join(map(str, tried))}",
    )
