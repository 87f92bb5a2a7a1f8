"""What makes planning fast changes nothing: the same plans, the same refusals."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.planning import MODELS, RECIPES, recipe_of, tensor_shapes, write_checkpoint
from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.errors import CheckpointError, RecipeError
from merge_core.files.bounded_json import parse_json
from merge_core.methods import method_named
from merge_core.planning.explain import has_filters
from merge_core.planning.layout import lay_out
from merge_core.planning.plan import make_plan
from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.parameters import resolve, resolver
from merge_core.runtime.garbage import collection_paused
from merge_core.tensors.names import group_of, kind_of, kinds_of, layer_of
from merge_core.tensors.safetensors_header import KnownHeaders


def test_every_tensor_of_a_mixture_of_experts_is_planned_once_in_the_donors_order(
    tmp_path: Path,
) -> None:
    shapes = tensor_shapes(1000)
    sources = [write_checkpoint(tmp_path / model, shapes) for model in MODELS]
    recipe = parse_recipe(recipe_of("ties, with filters and gradients", tmp_path))
    plan = make_plan(recipe, {source.reference: source for source in sources})
    assert [tensor.name for tensor in plan.tensors] == list(shapes)
    for tensor in plan.tensors:
        assert tensor.slot.shape == shapes[tensor.name]
        assert tensor.merged.base is not None
        read = (tensor.merged.base, *tensor.merged.inputs)
        origin = tensor.merged.copy_of or tensor.name  # all are zeros, the head like the embedding
        assert [(each.name, each.path.parent.name) for each in read] == [  # type: ignore[union-attr]
            (origin, model) for model in MODELS
        ]
    weights = {
        tensor.name: [each["weight"] for each in tensor.merged.model_parameters]
        for tensor in plan.tensors
    }
    assert weights["model.norm.weight"] == [0.0, 0.0]
    assert weights["model.layers.0.self_attn.q_proj.weight"] == [0.5, 0.5]
    assert weights["model.layers.0.mlp.experts.7.up_proj.weight"] == [0.4, 0.4]


@pytest.mark.parametrize("name", list(RECIPES))
def test_only_a_recipe_with_filters_is_searched_for_idle_ones(name: str, tmp_path: Path) -> None:
    assert has_filters(parse_recipe(recipe_of(name, tmp_path))) == ("filters" in name)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.12.mlp.experts.117.down_proj.weight",
        "bert.encoder.layer.3.attention.self.query.weight",
        "transformer.h.11.ln_2.bias",
        "encoder.block.0.layer.1.DenseReluDense.wi_1.weight",
        "roberta.fc12.weight",
    ],
)
def test_the_digits_of_a_name_do_not_decide_its_group(name: str) -> None:
    assert group_of(name) == group_of(kind_of(name))
    assert (layer_of(name) is None) == (layer_of(kind_of(name)) is None)


@pytest.mark.parametrize(
    "odd", [[], [""], ["a\n1", "b2"], ["\n", ""], ["\udcff7", "a\r9", "x\u20283"]]
)
def test_kinds_of_many_names_are_those_of_each(odd: list[str]) -> None:
    names = [*(f"model.layers.{layer}.w{layer % 7}" for layer in range(30)), *odd]
    assert kinds_of(names) == [kind_of(name) for name in names]
    assert kinds_of(odd) == [kind_of(name) for name in odd]


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 1}',
        '{"a": {"b": 1, "b": 2}}',
        '{"a": {"b": [{"c": 1, "c": 2}]}}',
        '{"a:": 1, "a:": 2}',
        '{"a": 1, "\\u0061": 2}',
    ],
)
def test_a_key_that_comes_twice_is_found_wherever_it_is(text: str) -> None:
    with pytest.raises(ValueError, match="appears twice"):
        parse_json(text.encode(), unique_keys=True)


@pytest.mark.parametrize("text", ['{"a:b": {"c": ":"}}', '{"a": [{"a": 1}], "b": {"a": 1}}', "[1]"])
def test_equal_keys_of_different_objects_and_colons_in_texts_are_no_matter(text: str) -> None:
    assert parse_json(text.encode(), unique_keys=True) == json.loads(text)


def test_a_header_that_was_read_before_gives_the_same_tensors_of_another_file(
    tmp_path: Path,
) -> None:
    shapes = tensor_shapes(1000)
    known: KnownHeaders = {}
    for model in MODELS:
        write_checkpoint(tmp_path / model, shapes)
        again, alone = open_checkpoint(tmp_path / model, known), open_checkpoint(tmp_path / model)
        assert dict(again.tensors) == dict(alone.tensors)
        assert {each.path.parent.name for each in again.tensors.values()} == {model}  # type: ignore[union-attr]
    assert len(known) == 1


@pytest.mark.parametrize("change", [-1, 1])
def test_a_header_that_was_read_before_vouches_for_no_other_files_length(
    tmp_path: Path, change: int
) -> None:
    known: KnownHeaders = {}
    for model in MODELS[:2]:
        write_checkpoint(tmp_path / model, {"a.weight": (4, 4)})
    open_checkpoint(tmp_path / MODELS[0], known)
    file = tmp_path / MODELS[1] / "model.safetensors"
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size + change)
    with pytest.raises(CheckpointError, match=r"truncated|after its last tensor"):
        open_checkpoint(tmp_path / MODELS[1], known)


def test_a_header_is_the_json_that_pythons_writer_gives() -> None:
    tensors = [
        ('a"\N{LATIN SMALL LETTER A WITH DIAERESIS}\\', "F32", (3, 4)),
        ("b\N{GRINNING FACE}", "F32", ()),
        ("c", "I8", (0,)),
    ]
    _, (shard,) = lay_out(tensors, 1000)
    fields = json.loads(shard.header[8:])
    assert shard.header[8:].rstrip() == json.dumps(fields, separators=(",", ":")).encode()
    assert list(fields) == ["__metadata__", *(name for name, _, _ in tensors)]
    assert fields["c"] == {"dtype": "I8", "shape": [0], "data_offsets": [52, 52]}


def test_a_parameter_is_resolved_alike_for_one_tensor_and_for_many() -> None:
    levels = [
        {"weight": [{"group": "norms", "value": 0}, {"glob": "*.down_[!x]*", "value": [1, 0.5]}]},
        {
            "weight": [
                {"regex": r"layers\.[0-4]\.", "value": 0.25},
                {"filter": "q_proj", "value": 2},
            ]
        },
        {"weight": 3},
    ]
    (weight,) = (p for p in method_named("ties").parameters if p.name == "weight")
    for given in (levels, [*levels[:2], {}], [{"weight": 3}]):
        found = resolver(weight, given)
        for name in tensor_shapes(1000):
            for depth in (0.0, 0.3, 1.0):
                assert _outcome(found, name, depth) == _outcome(
                    lambda *place, given=given: resolve(weight, given, *place), name, depth
                )


def _outcome(work: Callable[[str, float], object], name: str, depth: float) -> str:
    try:
        return repr(work(name, depth))
    except RecipeError as error:
        return str(error)


def test_garbage_collection_resumes_when_the_last_of_several_threads_is_done() -> None:
    assert gc.isenabled()
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with collection_paused():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with collection_paused():
        thread.start()
        inside.wait()
    assert not gc.isenabled()
    leave.set()
    thread.join()
    assert gc.isenabled()


def test_garbage_collection_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with collection_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
