"""Heads and embeddings that are stored twice: copies stay copies whatever the method does, and a
copy that only some inputs store is no difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flows.cli import program
from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.checkpoints.sources import describe_source
from merge_core.files.digests import DigestMemo
from merge_core.planning.plan import make_plan, plan_key
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from merge_core.verification.headers import facts_of, preflight
from merge_core.verification.tied_copies import presumed_copies, tied_copies
from merge_core.verification.verify import verify
from tests.support.checkpoints import run_recipe
from tests.support.tiny_llama import base_weights, described, fine_tuned, write_llama

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TIED = {"tie_word_embeddings": True, "num_hidden_layers": 2}
NAMES = ("base", "one", "two")
METHODS: dict[str, dict[str, Any]] = {
    "linear": {"weight": 0.5},
    "task_arithmetic": {"weight": 0.5},
    "ties": {"weight": 0.5, "density": 0.5},
    "ties, over the whole model": {"weight": 0.5, "density": 0.5, "scope": "global"},
    "dare_linear": {"weight": 0.5, "density": 0.5},
    "dare_ties": {"weight": 0.5, "density": 0.5},
    "della": {"weight": 0.5, "density": 0.5, "epsilon": 0.1},
    "breadcrumbs": {"weight": 0.5, "density": 0.5, "gamma": 0.1},
    "model_stock": {},
    "metagpt": {},
    "tsv_m": {},
    "a filter for the head alone": {"weight": [{"filter": "lm_head", "value": 1}, {"value": 0.5}]},
}


def weights_of(name: str, *, copy: bool) -> dict[str, torch.Tensor]:
    """A base or a fine-tune of it, with a copy of its embedding as head or without one."""
    base = base_weights()
    weights = base if name == "base" else fine_tuned(base, NAMES.index(name))
    del weights[HEAD]
    return weights | ({HEAD: weights[EMBEDDING].clone()} if copy else {})


def write(root: Path, copies: tuple[bool, bool, bool]) -> dict[str, SourceCheckpoint]:
    for name, copy in zip(NAMES, copies, strict=True):
        write_llama(root / name, weights_of(name, copy=copy), config=TIED)
    return {name: described(root / name) for name in NAMES}


def recipe(method: str = "task_arithmetic", **more: Any) -> dict[str, Any]:
    name = method.partition(",")[0]
    name = "task_arithmetic" if " " in name else name
    models = [{"model": each} for each in NAMES[1:]]
    parameters = METHODS.get(method, {"weight": 0.5})
    values = {"merge_method": name, "models": models, "parameters": parameters}
    return values | ({} if name == "linear" else {"base_model": "base"}) | more


def merged(root: Path, values: dict[str, Any], out: str = "out") -> dict[str, torch.Tensor]:
    sources = {name: described(root / name) for name in NAMES}
    run_recipe(values, sources, root / out, threads=1)
    return load_file(root / out / "model.safetensors")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_what_is_equal_in_every_input_is_equal_in_the_result(method: str, tmp_path: Path) -> None:
    write(tmp_path, (True, True, True))
    result = merged(tmp_path, recipe(method))
    assert torch.equal(result[HEAD], result[EMBEDDING])
    assert not torch.equal(result[EMBEDDING], weights_of("base", copy=False)[EMBEDDING])


@pytest.mark.parametrize(
    "copies", [(True, False, False), (False, True, False), (True, True, False), (True, False, True)]
)
def test_a_copy_that_some_store_is_no_difference(
    copies: tuple[bool, bool, bool], tmp_path: Path
) -> None:
    sources = write(tmp_path, copies)
    report = verify(sources["base"], [sources["one"], sources["two"]], scan_weights=False)
    assert report.ok, report.errors
    result = merged(tmp_path, recipe("dare_ties"))
    assert (HEAD in result) == copies[0]  # the result is stored as the base is
    assert torch.equal(result.get(HEAD, result[EMBEDDING]), result[EMBEDDING])


def test_an_excluded_copy_follows_its_original(tmp_path: Path) -> None:
    write(tmp_path, (True, False, False))
    result = merged(tmp_path, recipe(exclude=["lm_head"]))
    assert torch.equal(result[HEAD], result[EMBEDDING])


def test_copies_stay_copies_in_stacks_and_in_recipes_of_recipes(tmp_path: Path) -> None:
    write(tmp_path, (True, True, True))
    sources = [{"model": name, "layer_range": [0, 2]} for name in ("one", "two")]
    stack = {"merge_method": "passthrough", "slices": [{"sources": [each]} for each in sources]}
    result = merged(tmp_path, stack, "stack")
    assert torch.equal(result[HEAD], result[EMBEDDING])
    assert torch.equal(result[EMBEDDING], weights_of("one", copy=False)[EMBEDDING])
    first = recipe("dare_linear") | {"name": "first"}
    both = {
        "recipes": [first],
        "merge_method": "dare_linear",
        "base_model": "base",
        "models": [{"model": "first"}],
        "parameters": {"weight": 1, "density": 0.5},
    }
    result = merged(tmp_path, both, "both")
    assert torch.equal(result[HEAD], result[EMBEDDING])


def test_a_head_that_differs_in_one_input_is_no_copy(tmp_path: Path) -> None:
    write(tmp_path, (True, True, True))
    trained = weights_of("two", copy=True)
    trained[HEAD][3, 5] += 0.01
    for file in tmp_path.glob("two/*"):
        file.unlink()
    (tmp_path / "two").rmdir()
    write_llama(tmp_path / "two", trained, config=TIED)
    result = merged(tmp_path, recipe())
    assert not torch.equal(result[HEAD], result[EMBEDDING])
    write_llama(tmp_path / "plain", weights_of("one", copy=False), config=TIED)
    report = verify(described(tmp_path / "two"), [described(tmp_path / "plain")])
    assert [each.code for each in report.errors] == ["tensors-missing"]


def test_who_ties_by_config_and_who_by_content_are_one_architecture(tmp_path: Path) -> None:
    untied = {"tie_word_embeddings": False}
    base = write_llama(tmp_path / "base", weights_of("base", copy=True), config=untied)
    one = write_llama(tmp_path / "one", weights_of("one", copy=False), config=TIED)
    assert verify(base, [one], scan_weights=False).ok
    assert verify(one, [base], scan_weights=False).ok
    other = write_llama(tmp_path / "other", fine_tuned(base_weights(), 3), config=untied)
    codes = {each.code for each in verify(one, [other], scan_weights=False).errors}
    assert codes == {"tensors-extra", "settings-differ"}


def test_copies_in_one_checkpoint_of_several_names_have_one_original(tmp_path: Path) -> None:
    table = torch.randn(32, 16)
    names = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", HEAD)
    weights = dict.fromkeys(names, table) | {"encoder.block.0.layer.0.q.weight": torch.ones(16, 16)}
    write_llama(tmp_path / "t5", {name: it.clone() for name, it in weights.items()})
    copies = tied_copies([open_checkpoint(tmp_path / "t5")])
    assert set(copies) == set(names) - {"decoder.embed_tokens.weight"}
    assert set(copies.values()) == {"decoder.embed_tokens.weight"}


def test_before_a_download_the_config_says_whether_a_head_may_be_a_copy() -> None:
    embedding = {EMBEDDING: ("F32", (32, 16))}
    both = embedding | {HEAD: ("F32", (32, 16))}
    assert presumed_copies(both, TIED) == {HEAD}
    assert presumed_copies(both, {"text_config": TIED}) == {HEAD}
    assert not presumed_copies(both, {"tie_word_embeddings": False})
    assert not presumed_copies(embedding | {HEAD: ("F32", (33, 16))}, TIED)


def test_a_merge_by_command_says_nothing_of_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, (True, False, False))
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(
        "merge_method: task_arithmetic\nbase_model: ./base\nparameters: {weight: 0.5}\n"
        "models: [{model: ./one}, {model: ./two}]\n"
    )
    assert program.run(["plan", "r.yaml"]) == 0
    assert program.run(["explain", "r.yaml", HEAD]) == 0
    assert program.run(["merge", "r.yaml", "out", "--threads", "1"]) == 0


def test_plans_of_before_keep_their_digest_where_no_byte_changes(tmp_path: Path) -> None:
    """The digests are those of the version before, with engine 4."""
    sources = write(tmp_path, (True, True, True))
    plain, random = parse_recipe(recipe("linear")), parse_recipe(recipe("dare_linear"))
    named = {name: describe_source(name, tmp_path / name, DigestMemo(None)) for name in NAMES}
    for read, engine in ((plain, "4"), (random, "5")):
        plan = make_plan(read, sources)
        assert plan.engine == engine
        assert plan.digest == plan_key(read, named) == plan_key(read, named, engine=engine)
        assert plan.digest != plan_key(read, named, engine="6")


def test_facts_without_weights_compare_what_is_no_copy(tmp_path: Path) -> None:
    write(tmp_path, (True, False, False))
    opened = [open_checkpoint(tmp_path / name) for name in NAMES]
    copies = frozenset(tied_copies(opened))
    assert copies == {HEAD}
    facts = [facts_of(name, each, copies) for name, each in zip(NAMES, opened, strict=True)]
    assert not [each for each in preflight(facts[0], facts[1:]) if each.severity == "error"]
