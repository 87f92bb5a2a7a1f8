"""Mends of parts that only one model has: what is to be excluded is copied from the message."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.field.mends.situations import MERGE, VERIFY, Tensors, config, on_base, rewrite
from tests.support.followed_mends import Advice, Shell

pytestmark = pytest.mark.slow  # `make field`

Making = Callable[[Path], None]


def excluded(here: Path, said: str) -> None:
    """Write into recipe.yaml what a message says to: `exclude: [...]`, or what to add to it."""
    file = here / "recipe.yaml"
    content = yaml.safe_load(file.read_text())
    written = re.search(r"write `(exclude: \[.*?\])`", said)
    added = re.search(r"add (\{.*?\}) to `exclude`", said)
    assert bool(written) != bool(added), said
    if written:
        content |= yaml.safe_load(written[1])
    elif added:
        content["exclude"] += yaml.safe_load(f"[{added[1]}]")
    file.write_text(yaml.safe_dump(content))


def more(here: Path, tensor: str, *shape: int) -> None:
    """Give a tensor to the fine-tune a alone."""
    rewrite(here / "a", lambda tensors: tensors.update({tensor: torch.ones(*shape)}))


def a_value_head(here: Path) -> None:
    on_base(here)
    more(here, "v_head.summary.weight", 1, 8)


def a_value_head_beside_what_is_excluded(here: Path) -> None:
    on_base(here, exclude=["norms"])
    more(here, "v_head.summary.weight", 1, 8)


def a_tied_head(here: Path) -> None:
    on_base(here)
    rewrite(here / "a", lambda tensors: tensors.pop("lm_head.weight"))


def a_tied_head_beside_what_is_excluded(here: Path) -> None:
    on_base(here, exclude=["norms"])
    rewrite(here / "a", lambda tensors: tensors.pop("lm_head.weight"))


def a_tensor_of_no_known_part(here: Path) -> None:
    on_base(here)
    more(here, "further.scale.weight", 8)


def a_tensor_of_no_known_part_beside_what_is_excluded(here: Path) -> None:
    on_base(here, exclude=["norms"])
    more(here, "further.scale.weight", 8)


def a_classifier(here: Path) -> None:
    def other_head(tensors: Tensors) -> None:
        tensors.pop("lm_head.weight")
        tensors["score.weight"] = torch.ones(1, 8)

    on_base(here)
    rewrite(here / "a", other_head)
    for name in ("base", "b"):
        config(here / name, architectures=["LlamaForCausalLM"])
    config(here / "a", architectures=["LlamaForSequenceClassification"])


def a_classifier_beside_what_is_excluded(here: Path) -> None:
    a_classifier(here)
    on_base(here, exclude=["norms"])


@pytest.mark.parametrize(
    "making",
    [
        a_value_head,
        a_value_head_beside_what_is_excluded,
        a_tied_head,
        a_tied_head_beside_what_is_excluded,
        a_tensor_of_no_known_part,
        a_tensor_of_no_known_part_beside_what_is_excluded,
        a_classifier,
        a_classifier_beside_what_is_excluded,
    ],
    ids=lambda each: each.__name__,
)
def test_part(making: Making, here: Path, mergeflow: Shell, advice: Advice) -> None:
    making(here)
    excluded(here, advice.refused(mergeflow, *VERIFY))
    advice.helped(mergeflow, *MERGE)
    base = load_file(here / "base/model.safetensors")
    merged = load_file(here / "out/model.safetensors")
    assert set(merged) == set(base)
    changed = {name for name, tensor in merged.items() if not torch.equal(tensor, base[name])}
    assert "model.layers.0.mlp.up_proj.weight" in changed
    assert ("lm_head.weight" in changed) == (making not in _WITHOUT_HEAD)


_WITHOUT_HEAD = (
    *(a_tied_head, a_tied_head_beside_what_is_excluded),
    *(a_classifier, a_classifier_beside_what_is_excluded),
)
