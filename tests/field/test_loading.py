"""transformers' own report of a result, on the meta device, is no worse than the donor's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from flows.cli import program
from merge_core.errors import CompatibilityError
from merge_core.recipes.loading import parse_recipe
from tasks.loading import process
from tasks.loading.check import (
    LayerOrigins,
    LoadingReport,
    check_loading,
    origins_of,
    raise_for_loading,
)
from tests.support.checkpoints import run_recipe
from tests.support.many_architectures import make_model
from tests.support.tiny_llama import described

STACK = """
merge_method: passthrough
slices:
  - sources: [{model: ./donor, layer_range: [0, 3]}]
  - sources: [{model: ./donor, layer_range: [1, 4]}]
"""


def stacked(name: str, directory: Path) -> tuple[Path, Path, LayerOrigins]:
    make_model(name).save_pretrained(directory / "donor")
    recipe = parse_recipe(STACK)
    sources = {"./donor": described(directory / "donor")}
    run_recipe(recipe, sources, directory / "out")
    origins = origins_of(recipe, sources)
    assert origins is not None
    return directory / "out", directory / "donor", origins


def edit(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: config[key] for key in config if config[key] is not ...}))


def asked(checkpoint: Path, donor: Path | None, origins: LayerOrigins | None = None) -> Any:
    """The answer of the process, given in this one."""
    return process.answer(
        {
            "checkpoint": str(checkpoint),
            "donor": str(donor) if donor else None,
            "origins": origins.model_dump() if origins else None,
            "sources": {"./donor": str(donor)},
        }
    )


def problems(answer: Any) -> dict[str, Any]:
    return {key: value for key, value in answer["worse"].items() if value}


def test_a_right_stack_loads_as_its_donor_and_layers_are_of_their_kind(tmp_path: Path) -> None:
    out, donor, origins = stacked("Gemma2", tmp_path)
    answer = asked(out, donor, origins)
    assert answer["checked"]
    assert problems(answer) == {}
    assert answer["kinds"] == []


def test_swapped_attention_is_seen_where_the_loading_report_is_clean(tmp_path: Path) -> None:
    out, donor, origins = stacked("Gemma2", tmp_path)
    kinds = json.loads((out / "config.json").read_text())["layer_types"]
    edit(out, layer_types=[*kinds[:3], "sliding_attention", *kinds[4:]])
    answer = asked(out, donor, origins)
    assert problems(answer) == {}
    assert "layer 3 is layer 1 of ./donor" in answer["kinds"][0]


def test_layers_that_would_be_dropped_or_random_are_counted(tmp_path: Path) -> None:
    out, donor, origins = stacked("Llama", tmp_path)
    edit(out, num_hidden_layers=5)
    found = problems(asked(out, donor, origins))
    assert len(found["unexpected"]) == 9
    assert all(name.startswith("model.layers.5.") for name in found["unexpected"])
    edit(out, num_hidden_layers=7)
    found = problems(asked(out, donor))
    assert len(found["missing"]) == 9
    edit(out, num_hidden_layers=6, intermediate_size=20)
    found = problems(asked(out, donor))
    assert len(found["mismatched"]) == 18


def test_what_a_class_ignores_silently_is_counted_too(tmp_path: Path) -> None:
    out, donor, _ = stacked("DeepseekV2", tmp_path)
    tensors = load_file(out / "model.safetensors")
    tensors["model.layers.61.self_attn.q_proj.weight"] = tensors["model.norm.weight"].clone()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    found = problems(asked(out, donor))
    assert found == {"unexpected": ["model.layers.61.self_attn.q_proj.weight"]}


def test_what_the_donor_leaves_over_alike_is_not_worse(tmp_path: Path) -> None:
    out, donor, _ = stacked("Llama", tmp_path)
    for directory, layers in ((out, 6), (donor, 4)):
        tensors = load_file(directory / "model.safetensors")
        for layer in range(layers):
            name = f"model.layers.{layer}.self_attn.causal_mask_cache"
            tensors[name] = tensors["model.norm.weight"].clone()
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    assert problems(asked(out, donor)) == {}
    assert len(problems(asked(out, None))["unexpected"]) == 6


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": ["TomorrowForCausalLM"]}, "has no class TomorrowForCausalLM"),
        ({"architectures": None}, "names no architecture"),
        (
            {"architectures": ["OwnForCausalLM"], "auto_map": {"AutoModel": "own.Own"}},
            "code of its own is not run",
        ),
    ],
)
def test_a_class_that_transformers_does_not_know_is_not_checked_and_says_so(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    make_model("Llama").save_pretrained(tmp_path / "donor")
    edit(tmp_path / "donor", **changes)
    answer = asked(tmp_path / "donor", None)
    assert not answer["checked"]
    assert reason in answer["reason"]


def test_equal_configs_and_headers_need_no_question(tmp_path: Path) -> None:
    make_model("Llama").save_pretrained(tmp_path / "donor")
    shutil.copytree(tmp_path / "donor", tmp_path / "out")
    report = check_loading(tmp_path / "out", tmp_path / "donor", scratch=tmp_path / "scratch")
    assert report.ok
    assert "it loads alike" in report.sentence
    assert not (tmp_path / "scratch").exists()


@pytest.mark.slow
def test_the_command_asks_in_a_process_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _, _ = stacked("Llama", tmp_path)
    (tmp_path / "recipe.yaml").write_text(STACK)
    edit(out, num_hidden_layers=5)
    command = ["verify", str(tmp_path / "recipe.yaml"), "--load", str(out), "--json"]
    assert program.run(command) == 2
    told = json.loads(capsys.readouterr().out)
    assert not told.pop("ok")
    assert "9 tensors that the model has no place for" in told["worse"][0]
    assert not list((tmp_path / "home").rglob("loading-*"))
    with pytest.raises(CompatibilityError, match="no place for") as caught:
        raise_for_loading(LoadingReport.model_validate(told), "merged")
    assert caught.value.mend
