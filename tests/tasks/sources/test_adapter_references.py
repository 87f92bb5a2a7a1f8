"""BASE+ADAPTER in a recipe: what it means, how it is found, and what a change of either changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from merge_core.checkpoints.sources import open_source
from merge_core.errors import CheckpointError, CompatibilityError
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.store.vouching import departures
from tasks.evaluation.evaluate import evaluate_checkpoint
from tasks.evaluation.suite import Suite
from tasks.sources.locate import (
    Preflight,
    fetch,
    fetch_adapters,
    fetch_all,
    locate,
)
from tasks.sources.location_keys import location_key
from tasks.sources.references import (
    AdaptedReference,
    HubReference,
    LocalReference,
    RegisteredReference,
    parse_reference,
)
from tests.support.adapters import random_factors, write_adapter
from tests.support.tiny_llama import base_weights, write_llama

Q = {"model.layers.0.self_attn.q_proj": (16, 16)}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a base and an adapter of it."""
    write_llama(tmp_path / "base", base_weights())
    write_adapter(tmp_path / "lora", random_factors(Q, 2))
    return tmp_path


def test_each_side_of_the_plus_is_a_reference_of_its_own(place: Path) -> None:
    assert parse_reference("base+lora", place) == AdaptedReference(
        LocalReference(place / "base"), LocalReference(place / "lora"), "base", "lora"
    )
    assert parse_reference("org/model@v1+org/lora@main", place) == AdaptedReference(
        HubReference("org/model", "v1"),
        HubReference("org/lora", "main"),
        "org/model@v1",
        "org/lora@main",
    )
    found = parse_reference("models:/name@champion+lora", place)
    assert isinstance(found, AdaptedReference)
    assert found.base == RegisteredReference("models:/name@champion")
    assert found.adapter == LocalReference(place / "lora")


def test_a_directory_with_a_plus_in_its_name_wins(place: Path) -> None:
    write_llama(place / "base+lora", base_weights(1))
    assert parse_reference("base+lora", place) == LocalReference(place / "base+lora")


def test_a_plus_in_the_name_of_one_side_is_no_hindrance(place: Path) -> None:
    (place / "lora").rename(place / "lo+ra")
    (place / "base").rename(place / "ba+se")
    found = parse_reference("ba+se+lo+ra", place)
    assert isinstance(found, AdaptedReference)
    assert (found.base_text, found.adapter_text) == ("ba+se", "lo+ra")


@pytest.mark.parametrize(
    ("text", "where"), [("base+nowhere", "nowhere"), ("nothing+lora", "nothing")]
)
def test_the_side_that_leads_nowhere_is_named(place: Path, text: str, where: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse_reference(text, place)
    assert caught.value.where == where
    assert "no such directory" in caught.value.what


def test_a_registered_model_is_no_adapter(place: Path) -> None:
    with pytest.raises(CheckpointError, match="not a registered model"):
        parse_reference("base+models:/lora@best", place)


def test_fetching_gives_a_source_that_knows_both(place: Path, home: Home) -> None:
    source = fetch_all(["base+lora"], home, place)["base+lora"]
    base = fetch_all(["base"], home, place)["base"]
    assert source.path == base.path == str(place / "base")
    assert source.adapter is not None
    assert source.adapter.path == str(place / "lora")
    assert [file.name for file in source.adapter.files] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert source.digest != base.digest
    assert departures(source, DigestMemo(None)) == []


def test_a_changed_adapter_is_noticed(place: Path, home: Home) -> None:
    location = locate("base+lora", home, place)
    key, source = location_key(location), fetch(location, DigestMemo(None))
    config = place / "lora" / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 2', '"lora_alpha": 4'))
    assert departures(source, DigestMemo(None)) == ["adapter_config.json has changed"]
    assert location_key(location) != key
    assert fetch(location, DigestMemo(None)).digest != source.digest


def test_an_adapter_of_another_base_is_refused_when_it_is_fetched(place: Path, home: Home) -> None:
    write_adapter(place / "other", random_factors({"model.layers.7.q_proj": (16, 16)}, 2))
    with pytest.raises(CompatibilityError, match="1 of the 1 tensors"):
        fetch_all(["base+other"], home, place)


def test_a_plan_needs_no_digests(place: Path, home: Home) -> None:
    location = locate("base+lora", home, place)
    assert not location.is_remote
    tensors = open_source(Preflight(locations=(location,)).undigested()["base+lora"]).tensors
    assert len(tensors["model.layers.0.self_attn.q_proj.weight"].entries) == 3


def test_an_adapted_model_is_never_evaluated_as_its_base(place: Path, home: Home) -> None:
    source = fetch_all(["base+lora"], home, place)["base+lora"]
    suite = Suite.model_construct(name="none", tasks=())
    with pytest.raises(CheckpointError, match="once it is written out"):
        evaluate_checkpoint(source, suite, scratch=place / "scratch")


def test_an_adapter_merge_names_adapters_alone(place: Path, home: Home) -> None:
    assert list(fetch_adapters(["lora"], home, place)) == ["lora"]
    with pytest.raises(CheckpointError, match="this is a checkpoint"):
        fetch_adapters(["base+lora"], home, place)
    with pytest.raises(CheckpointError, match="no LoRA adapter"):
        fetch_adapters(["base"], home, place)


def test_a_recipe_with_an_adapted_model_is_merged_from_the_command_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli.program import run

    write_adapter(place / "lora2", random_factors(Q, 3, seed=2))
    recipe = place / "recipe.yaml"
    recipe.write_text(
        "merge_method: task_arithmetic\nbase_model: base\nmodels:\n"
        "- {model: base+lora, parameters: {weight: 0.5}}\n"
        "- {model: base+lora2, parameters: {weight: 0.5}}\n"
    )
    monkeypatch.chdir(place)
    for command in (["plan"], ["verify"], ["profile"]):
        assert run([*command, str(recipe)]) == 0, capsys.readouterr()
    assert run(["merge", str(recipe), "out"]) == 0
    adapters = place / "adapters.yaml"
    adapters.write_text(recipe.read_text().replace("base+", ""))
    assert run(["adapter", "merge", str(adapters), "merged"]) == 0
    assert run(["adapter", "extract", "base", "out", "extracted", "--rank", "5"]) == 0
    recipe.write_text("merge_method: passthrough\nmodels: [{model: base+merged}]\n")
    assert run(["merge", str(recipe), "again"]) == 0
    out, again = ((place / name / "model.safetensors").read_bytes() for name in ("out", "again"))
    assert len(out) == len(again)
    assert "relative error of the whole task vector" in capsys.readouterr().out
