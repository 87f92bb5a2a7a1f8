"""Tensors that are called otherwise in one model: wrappers of training, classes with a head, and
multimodal names of before and after transformers 4.52."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merge_core.checkpoints.tensor_names import new_names
from merge_core.errors import CheckpointError
from merge_core.planning.plan import make_plan
from merge_core.recipes.loading import parse_recipe
from merge_core.tensors.wrapper_names import unwrapped_names
from merge_core.verification.headers import facts_of, preflight
from merge_core.verification.verify import verify
from tasks.evaluation.evaluate import evaluate_checkpoint
from tasks.evaluation.suite import load_suite
from tests.support.by_command import User, advised_line
from tests.support.tiny_llama import base_weights, described, fine_tuned, write_llama

CONFIG = {"num_hidden_layers": 2}
OLD = ["model.layers.0.a.weight", "model.norm.weight", "visual.blocks.0.b.weight", "lm_head.weight"]
NEW = [
    *("model.language_model.layers.0.a.weight", "model.language_model.norm.weight"),
    *("model.visual.blocks.0.b.weight", "lm_head.weight"),
]
LLAVA_OLD = [
    *("language_model.model.layers.0.a.weight", "language_model.lm_head.weight"),
    *("vision_tower.layers.0.b.weight", "multi_modal_projector.linear.weight"),
]
LLAVA_NEW = [
    *("model.language_model.layers.0.a.weight", "lm_head.weight"),
    *("model.vision_tower.layers.0.b.weight", "model.multi_modal_projector.linear.weight"),
]


@pytest.fixture
def user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> User:
    monkeypatch.chdir(tmp_path)
    base = base_weights()
    write_llama(tmp_path / "base", base, config=CONFIG)
    write_llama(tmp_path / "one", fine_tuned(base, 1), config=CONFIG)
    write_llama(tmp_path / "two", fine_tuned(base, 2), config=CONFIG)
    user = User(tmp_path, capsys)
    user.recipe(["./one", "./two"], base="./base")
    code, said = user.merge("plain")
    assert code == 0, said
    return user


def rename(directory: Path, prefix: str, more: dict[str, torch.Tensor] | None = None) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    save_file({prefix + name: it for name, it in tensors.items()} | (more or {}), path)


@pytest.mark.parametrize(
    "prefix",
    [
        *("_orig_mod.", "module.", "module._orig_mod.", "_fsdp_wrapped_module."),
        "base_model.model.",
    ],
)
def test_what_a_wrapper_put_into_names_is_taken_out_and_told(prefix: str, user: User) -> None:
    rename(user.directory / "one", prefix)
    code, said = user.merge()
    assert code == 0
    assert f"a training wrapper put {prefix} into its tensors' names" in said
    plain = user.result("plain")
    assert {name: it.tolist() for name, it in user.result().items()} == {
        name: it.tolist() for name, it in plain.items()
    }


def test_a_wrapper_around_layers_is_taken_out_too() -> None:
    names = ["model.norm.weight", "model.layers.0._orig_mod.mlp.up_proj.weight"]
    assert list(unwrapped_names(names).values()) == [
        "model.norm.weight",
        "model.layers.0.mlp.up_proj.weight",
    ]
    assert unwrapped_names(["module.a.weight", "other.b.weight"]) == {}
    assert unwrapped_names(["a.weight", "_orig_mod.a.weight"]) == {}, "two tensors of one name"


def test_wrapped_models_alone_give_a_result_that_transformers_can_load(user: User) -> None:
    for name in ("base", "one", "two"):
        rename(user.directory / name, "_orig_mod.")
    code, said = user.merge()
    assert code == 0, said
    assert set(user.result()) == set(user.result("plain"))
    sources = {f"./{name}": described(user.directory / name) for name in ("base", "one", "two")}
    plan = make_plan(parse_recipe((user.directory / "r.yaml").read_text()), sources)
    assert plan.engine == "6", "a result of before had the wrapper's names"


def test_following_the_advice_makes_a_checkpoint_that_can_be_evaluated(user: User) -> None:
    rename(user.directory / "one", "module.")
    suite = load_suite("english-small")
    source = described(user.directory / "one")
    with pytest.raises(CheckpointError, match="would load random weights") as caught:
        evaluate_checkpoint(source, suite, scratch=user.directory / "scratch")
    assert "merge_method: passthrough" in str(caught.value.mend)
    (user.directory / "r.yaml").write_text("merge_method: passthrough\nmodels: [{model: ./one}]\n")
    code, said = user.merge()
    assert code == 0, said
    assert set(user.result()) == set(user.result("plain"))


def test_a_class_around_the_model_is_mapped_and_its_head_is_named(user: User) -> None:
    head = {"v_head.summary.weight": torch.ones(1, 16)}
    rename(user.directory / "one", "pretrained_model.", head)
    code, said = user.merge()
    assert code == 2
    assert "a value head, as PPO trains one: v_head.summary.weight" in said
    assert "it lacks" not in said
    user.recipe(["./one", "./two"], base="./base", more=advised_line(said))
    code, said = user.merge()
    assert (code, "decides on no tensor" in said) == (0, False)
    plain = user.result("plain")
    assert all(torch.equal(it, plain[name]) for name, it in user.result().items())


@pytest.mark.parametrize(("here", "there"), [(OLD, NEW), (LLAVA_OLD, LLAVA_NEW)])
def test_multimodal_names_of_two_versions_are_mapped_both_ways(
    here: list[str], there: list[str]
) -> None:
    for one, other in ((here, there), (there, here)):
        new = new_names(one, other)
        assert sorted(new.get(name, name) for name in other) == sorted(one)


def test_names_are_left_as_they_are_where_no_renaming_or_several_would_do() -> None:
    assert new_names(["model.layers.0.a.weight"], ["model.layers.3.a.weight"]) == {}
    assert new_names(["model.norm.weight"], ["other.thing.weight"]) == {}
    twice = [f"{side}.{part}.weight" for side in ("left", "right") for part in "ab"]
    assert new_names(twice, ["a.weight", "b.weight"]) == {}
    assert new_names([f"model.x{i}a" for i in "abcdefgh"], ["z.model.xaa"]) == {}, "one of eight"


def test_a_multimodal_fine_tune_under_old_names_is_merged_under_the_bases(user: User) -> None:
    shutil.rmtree(user.directory / "out", ignore_errors=True)
    for name in ("base", "one", "two"):
        path = user.directory / name / "model.safetensors"
        tensors = load_file(path) | {"visual.blocks.0.proj.weight": torch.eye(16)}
        if name != "one":
            tensors = {
                "model." + key
                if key.startswith("visual.")
                else key.replace("model.", "model.language_model.", 1): it
                for key, it in tensors.items()
            }
        save_file(tensors, path)
    report = verify(described(user.directory / "base"), [described(user.directory / "one")])
    assert report.ok
    (found,) = [each for each in report.findings if each.code == "names-mapped"]
    assert "model.* is read as model.language_model.*" in found.message
    code, said = user.merge()
    assert code == 0, said
    plain = user.result("plain")
    for name, it in plain.items():
        assert torch.equal(user.result()[name.replace("model.", "model.language_model.", 1)], it)


def test_a_prefix_that_cannot_be_mapped_is_named(user: User) -> None:
    few = {f"wrapped.{name}.weight": torch.ones(4, 4) for name in ("one", "two", "three")}
    path = user.directory / "one" / "model.safetensors"
    save_file(few, path)
    code, said = user.merge()
    assert (code, "all of these begin with wrapped." in said) == (2, True), said


def test_before_a_download_names_are_mapped_alike(user: User) -> None:
    from merge_core.checkpoints.checkpoint import open_checkpoint

    rename(user.directory / "one", "pretrained_model.")
    facts = [facts_of(name, open_checkpoint(user.directory / name)) for name in ("base", "one")]
    assert not [each for each in preflight(facts[0], facts[1:]) if each.severity == "error"]


def test_models_of_two_types_are_not_mapped(user: User) -> None:
    rename(user.directory / "one", "pretrained_model.")
    path = user.directory / "one" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "mistral"}))
    code, said = user.merge()
    assert code == 2
    assert "it is a LlamaForCausalLM (mistral)" in said


SPELLINGS = [
    ("bert.encoder.layer.0.LayerNorm.gamma", "bert.encoder.layer.0.LayerNorm.weight"),
    ("bert.encoder.layer.0.LayerNorm.beta", "bert.encoder.layer.0.LayerNorm.bias"),
    ("conv.weight_g", "conv.parametrizations.weight.original0"),
    ("conv.weight_v", "conv.parametrizations.weight.original1"),
]


@pytest.mark.parametrize("way", [1, -1])
def test_ends_of_names_that_versions_spell_otherwise_are_read_alike(way: int) -> None:
    old, new = ([*names, "norm.weight"] for names in list(zip(*SPELLINGS, strict=True))[::way])
    assert new_names(new, old) == dict(zip(old[:-1], new[:-1], strict=True))
    assert new_names(new, new) == {}
    assert new_names([*old, *new], old) == {}
    within = [name.removeprefix("bert.") for name in old[:2]]
    assert new_names(new[:2], within) == dict(zip(within, new, strict=False))


def test_a_model_with_older_names_of_norms_is_merged(user: User) -> None:
    for name, ending in (("base", "weight"), ("one", "gamma"), ("two", "weight")):
        norm = {f"model.LayerNorm.{ending}": torch.full((16,), float(len(ending)))}
        rename(user.directory / name, "", norm)
    code, said = user.merge()
    assert code == 0, said
    assert torch.equal(user.result()["model.LayerNorm.weight"], torch.full((16,), 5.5))
