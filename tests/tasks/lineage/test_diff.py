"""In what two versions differ, at a real registry and with real weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from flows.cli import program
from tasks.lineage.diff import difference, difference_lines
from tasks.registry.register import register_merge
from tests.support.registrations import variant, zoo_merge
from tests.support.registry_contents import Registered


def test_two_versions_differ_in_what_they_were_made_of_and_how_they_scored(
    tiny_zoo: Any,
    merged: Path,
    promoted: Registered,
    after_promotion: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = variant(merged, tmp_path / "worse", "worse")
    weights = load_file(result / "model.safetensors")
    name = min(weights)
    weights[name] = weights[name] * 2
    (result / "model.safetensors").chmod(0o644)
    save_file(weights, result / "model.safetensors")
    worse = zoo_merge(tiny_zoo, result, after_promotion, promote=False, method="ties")
    worse["recipe_yaml"] = worse["recipe_yaml"].replace("weight: 0.5", "weight: 0.9", 1)
    worse["models"] = worse["models"][:1]
    worse["reports"] = worse["reports"][:3]
    inputs = worse["manifest"].inputs[:2]
    worse["manifest"] = worse["manifest"].model_copy(update={"inputs": inputs})
    version = register_merge(**worse).candidate.version

    found = difference("models:/zoo@champion", f"models:/zoo/{version}", after_promotion)
    assert [each.name for each in found.recipe] == ["recipe.models.0.parameters.weight"]
    assert [(each.first, each.second) for each in found.recipe] == [("0.5", "0.9")]
    assert [(each.second is None) for each in found.sources] == [True]
    assert {each.name for each in found.made} >= {"method", "verdict"}
    assert "improvement/zoo_code_bpb/bits_per_byte" in {each.name for each in found.scores}
    assert found.tensors is not None
    assert [each.name for each in found.tensors.changed] == [name]
    assert found.tensors.changed[0].relative == pytest.approx(1.0, rel=1e-2)
    text = "\n".join(difference_lines(found))
    assert "recipe.models.0.parameters.weight: 0.5 -> 0.9" in text
    assert f"{name} (one entry by at most" in text

    addresses = ["models:/zoo@champion", f"models:/zoo/{version}"]
    command = ["diff", *addresses, "--tracking-uri", after_promotion]
    assert program.run(command) == 0
    assert "recipe.models.0.parameters.weight: 0.5 -> 0.9" in capsys.readouterr().out
    shutil.rmtree(result)
    assert program.run([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["tensors"] is None
    assert "is not on this machine" in said["unknown"][0]


def test_a_version_does_not_differ_from_itself(promoted: Registered) -> None:
    found = difference("models:/zoo/2", "models:/zoo@champion", promoted.registry)
    assert found.same_checkpoint
    changed = found.recipe + found.sources + found.scores + found.rule + found.made
    assert (changed, found.unknown, found.tensors) == ((), (), None)
