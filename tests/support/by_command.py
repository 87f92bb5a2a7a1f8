"""What a user does: writes a recipe, runs a command, reads what it says, does what it advises."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flows.cli import program


@dataclass
class User:
    """Commands run in a directory, with what they print."""

    directory: Path
    capsys: pytest.CaptureFixture[str]

    def run(self, *arguments: str) -> tuple[int, str]:
        """A command's exit code, and all that it printed."""
        self.capsys.readouterr()
        code = program.run(arguments)
        printed = self.capsys.readouterr()
        return code, printed.out + printed.err

    def recipe(self, models: Sequence[str], *, base: str = "", more: str = "") -> Path:
        """A recipe of the plainest merge, with further lines."""
        listed = "\n".join(
            f'  - {{model: "{model}", parameters: {{weight: 0.5}}}}' for model in models
        )
        named = f'base_model: "{base}"\n' if base else ""
        text = f"merge_method: linear\n{named}{more}\nmodels:\n{listed}\n"
        (self.directory / "r.yaml").write_text(text)
        return self.directory / "r.yaml"

    def merge(self, out: str = "out") -> tuple[int, str]:
        """Merge by the recipe."""
        return self.run("merge", "r.yaml", out, "--threads", "1")

    def result(self, out: str = "out") -> dict[str, torch.Tensor]:
        """The merged tensors."""
        return load_file(self.directory / out / "model.safetensors")


def advised_line(said: str) -> str:
    """The line of a recipe that a message says to write: `exclude: [...]`."""
    found = re.search(r"write `(exclude: \[.*?\])`", said)
    assert found, said
    return found[1]
