"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe file: YAML in mergekit's notation.")
]
OutDirectory = Annotated[
    Path, typer.Argument(metavar="OUT", help="The directory to make. Must not exist yet.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value, for programs.")]
Device = Annotated[
    str, typer.Option(help="auto (a GPU when there is one), cpu, cuda or cuda:N.", metavar="DEVICE")
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=256, help="Worker threads. Default: one for each processor."),
]
TrackingUri = Annotated[
    str,
    typer.Option(
        metavar="URI",
        help="MLflow address. Default: $MLFLOW_TRACKING_URI, else the embedded database.",
    ),
]

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def read_bytes(text: str) -> int:
    """A number of bytes: `5GB`, `500 MB`, `1GiB`, `1000000`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]i?B|)\s*", text, re.IGNORECASE)
    if not match:
        raise typer.BadParameter(f"'{text}' is no size; write for example 5GB or 500MB")
    count = int(float(match[1]) * _UNITS[match[2].upper()])
    if count < 1:
        raise typer.BadParameter("a size is at least 1 byte")
    return count
