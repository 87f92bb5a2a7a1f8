"""What a checkpoint reference in a recipe means: a directory, a Hub repository, a registered model.

A directory is looked for beside the file that names it, then in the current directory; one that
exists always wins over a Hub repository of the same name.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from merge_core.errors import CheckpointError
from merge_core.home import Home

_NAME = r"[A-Za-z0-9][\w.-]*"
_HUB = re.compile(rf"(?P<repository>{_NAME}/{_NAME})(@(?P<revision>[\w./-]+))?")
_REGISTERED = re.compile(r"models:/[^/@]+(@[^/@]+|/[^/@]+)")
_VARIABLES = re.compile(r"\$(?:\{(?P<braced>\w+)\}|(?P<bare>\w+))")


@dataclass(frozen=True)
class LocalReference:
    """A directory on this disk."""

    directory: Path


@dataclass(frozen=True)
class HubReference:
    """A repository on the Hugging Face Hub, at a branch, tag or commit (None: its main branch)."""

    repository: str
    revision: str | None


@dataclass(frozen=True)
class RegisteredReference:
    """A version of a registered model in MLflow: `models:/NAME@ALIAS` or `models:/NAME/VERSION`."""

    uri: str


Reference = LocalReference | HubReference | RegisteredReference


def parse_reference(text: str, beside: Path | None = None, home: Home | None = None) -> Reference:
    """What `text` refers to, with `beside` the directory of the file it is written in.

    `$MERGEFLOW_HOME` (the data directory) and `$MERGEFLOW_ZOO` (the example models in it) may be
    used in paths.

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
    path = Path(expand_variables(text, home or Home.discover())).expanduser()
    tried = _places(path, beside)
    for place in tried:
        if place.is_dir():
            return LocalReference(place)
    hub = _HUB.fullmatch(text)
    if hub:
        return HubReference(hub["repository"], hub["revision"])
    raise _nowhere(text, tried)


def expand_variables(text: str, home: Home) -> str:
    """A path with `$MERGEFLOW_HOME` and `$MERGEFLOW_ZOO` replaced.

    Raises:
        CheckpointError: any other variable; an environment may hold secrets.
    """
    known = {
        "MERGEFLOW_HOME": str(home.path),
        "MERGEFLOW_ZOO": os.environ.get("MERGEFLOW_ZOO") or str(home.path / "zoo"),
    }

    def value(match: re.Match[str]) -> str:
        name = match["braced"] or match["bare"]
        if name not in known:
            raise CheckpointError(
                f"${name} is not known here", where=text, mend="known: " + ", ".join(known)
            )
        return known[name]

    return _VARIABLES.sub(value, text)


def _places(path: Path, beside: Path | None) -> list[Path]:
    roots = [beside.absolute()] if beside else []
    found = [Path(os.path.normpath(root / path)) for root in (*roots, Path.cwd())]
    return list(dict.fromkeys(found))


def _nowhere(text: str, tried: list[Path]) -> CheckpointError:
    for place in tried:
        if place.is_file():
            return CheckpointError(
                "a checkpoint is a directory, this is a file",
                where=text,
                mend=f"name the directory that holds it: {place.parent}",
            )
    if "+" in text:
        return CheckpointError(
            "LoRA adapters (model+adapter) are not read by this version",
            where=text,
            mend="merge the adapter into its base first, and name the result",
        )
    return CheckpointError(
        "there is no such directory, and this is not the name of a Hub repository",
        where=text,
        mend="looked for " + ", ".join(map(str, tried)),
    )
