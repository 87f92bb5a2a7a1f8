"""What `verify` says of tensors' names and shapes, and of config.json."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from merge_core.verification.header_comparison import compare_headers
from merge_core.verification.headers import CheckpointFacts, facts_of, preflight
from merge_core.verification.tolerance import Tolerance
from merge_core.verification.verify import (
    verify,
)
from tests.support.fine_tunes import CARD, UP, codes, expert, only
from tests.support.tiny_llama import (
    CONFIG,
    base_weights,
    described,
    fine_tuned,
    write_llama,
)


def test_another_architecture_is_an_error(base: SourceCheckpoint) -> None:
    config = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    finding = only(verify(base, [expert(base, "other", config=config)]), "architecture-differs")
    assert finding.severity == "error"
    assert finding.message == (
        "it is a MistralForCausalLM (mistral), base is a LlamaForCausalLM (llama)"
    )
    assert "leave this one out" in (finding.mend or "")


def test_another_number_of_heads_is_an_error_although_all_shapes_agree(
    base: SourceCheckpoint,
) -> None:
    finding = only(
        verify(base, [expert(base, "heads", config={"num_attention_heads": 8})]), "settings-differ"
    )
    assert finding.severity == "error"
    assert "num_attention_heads 8 instead of 4" in finding.message
    assert "put the original back" in (finding.mend or "")


def test_another_epsilon_is_a_warning(base: SourceCheckpoint) -> None:
    finding = only(
        verify(base, [expert(base, "eps", config={"rms_norm_eps": 1e-5})]), "settings-differ"
    )
    assert finding.severity == "warning"
    assert "rms_norm_eps 1e-05 instead of 1e-06" in finding.message


def test_missing_and_extra_tensors_are_errors_that_name_them(base: SourceCheckpoint) -> None:
    odd = expert(base, "odd", without=[UP], replaced={"model.extra.weight": torch.ones(2, 2)})
    report = verify(base, [odd])
    missing, extra = only(report, "tensors-missing"), only(report, "tensors-extra")
    assert missing.message == f"it lacks 1 tensor that base has: {UP}"
    assert extra.message == "it has 1 tensor that base lacks: model.extra.weight"
    assert "another architecture or was saved by another class" in (missing.mend or "")


def test_tensors_that_the_recipe_leaves_alone_may_be_missing_or_of_another_shape(
    base: SourceCheckpoint,
) -> None:
    odd = expert(base, "odd", without=["lm_head.weight"], replaced={UP: torch.ones(64, 16)})
    assert not verify(base, [odd]).ok
    alone = Tolerance(exclude=({"filter": "lm_head"}, {"glob": "*.0.mlp.up_proj.*"}))
    assert verify(base, [odd], tolerance=alone).ok
    assert not verify(base, [odd], tolerance=Tolerance(exclude=({"filter": "lm_head"},))).ok


def test_models_that_are_stacked_may_have_different_numbers_of_layers(
    base: SourceCheckpoint,
) -> None:
    more = {
        name.replace("layers.1", "layers.2"): tensor
        for name, tensor in load_file(base.directory / "model.safetensors").items()
        if "layers.1" in name
    }
    taller = expert(base, "taller", replaced=more, config={"num_hidden_layers": 3})
    assert {"tensors-extra"} == {f.code for f in verify(base, [taller]).errors}
    assert verify(base, [taller], tolerance=Tolerance(depth=True)).ok
    odd = {"model.layers.2.other.weight": torch.ones(3)}
    strange = expert(base, "strange", replaced=odd)
    assert not verify(base, [strange], tolerance=Tolerance(depth=True)).ok


def test_what_a_recipe_copes_with_is_read_from_it_and_from_those_that_it_uses() -> None:
    models = "models: [{model: a}, {model: b}]"
    flat = parse_recipe(f"merge_method: linear\n{models}\nexclude: [lm_head]")
    assert Tolerance.of(flat) == Tolerance(exclude=({"filter": "lm_head"},))
    stacked = parse_recipe(
        "name: tall\nmerge_method: passthrough\n"
        "slices: [{sources: [{model: a, layer_range: [0, 2]}]}]\n"
        "---\nmerge_method: linear\nmodels: [{model: tall}, {model: b}]\n"
        "tokenizer_source: union\n"
    )
    assert Tolerance.of(stacked) == Tolerance(depth=True, vocabulary=True)


def test_a_missing_head_is_explained_by_tied_embeddings(base: SourceCheckpoint) -> None:
    finding = only(
        verify(base, [expert(base, "tied", without=["lm_head.weight"])]), "tensors-missing"
    )
    assert "tie_word_embeddings" in (finding.mend or "")


def test_a_head_and_embeddings_that_are_two_names_of_one_tensor(base: SourceCheckpoint) -> None:
    head, table = "lm_head.weight", "model.embed_tokens.weight"
    one = expert(base, "by-head", without=[table])
    other = expert(base, "by-table", without=[head])
    for first, second in ((one, other), (other, one)):
        finding = only(verify(first, [second]), "tensors-missing")
        assert "two names of one tensor" in finding.message
        assert "save it again" in (finding.mend or "")
        assert "tensors-extra" not in codes(verify(first, [second]))


def test_a_different_shape_is_an_error_with_both_shapes(base: SourceCheckpoint) -> None:
    finding = only(
        verify(base, [expert(base, "wide", replaced={UP: torch.ones(64, 16)})]), "shapes-differ"
    )
    assert finding.severity == "error"
    assert f"{UP} [64, 16] instead of [48, 16]" in finding.message
    assert "same base" in (finding.mend or "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}, "500000.0"),
        (
            {
                "rope_parameters": None,
                "rope_theta": 10000,
                "rope_scaling": {"type": "yarn", "factor": 4},
            },
            "factor 4.0 instead of None, original_max_position_embeddings 256.0 instead of None,"
            " rope_type yarn instead of default",
        ),
    ],
)
def test_other_rotary_positions_are_a_warning(
    base: SourceCheckpoint, change: dict[str, Any], words: str
) -> None:
    finding = only(verify(base, [expert(base, "rope", config=change)]), "rope-differs")
    assert finding.severity == "warning"
    assert words in finding.message
    assert "test it on long texts" in (finding.mend or "")


def test_the_same_rotary_positions_in_the_older_notation_are_no_difference(
    base: SourceCheckpoint,
) -> None:
    older = {"rope_parameters": None, "rope_theta": 10000, "rope_scaling": None}
    assert verify(base, [expert(base, "older", config=older)]).findings == ()


def test_another_context_length_is_a_warning(base: SourceCheckpoint) -> None:
    finding = only(
        verify(base, [expert(base, "long", config={"max_position_embeddings": 1024})]),
        "context-differs",
    )
    assert finding.severity == "warning"
    assert "max_position_embeddings 1024 instead of 256" in finding.message


def test_another_dtype_is_information(base: SourceCheckpoint) -> None:
    weights = {name: t.bfloat16() for name, t in fine_tuned(base_weights(), 1).items()}
    model = write_llama(base.directory.parent / "half", weights, card=CARD.format("base"))
    finding = only(verify(base, [model]), "dtype-differs")
    assert finding.severity == "info"
    assert "bfloat16, those of base float32" in finding.message


def test_a_model_with_code_of_its_own_is_a_warning(base: SourceCheckpoint) -> None:
    config = {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}
    finding = only(verify(base, [expert(base, "code", config=config)]), "needs-own-code")
    assert finding.severity == "warning"
    assert "AutoModelForCausalLM" in finding.message


def test_control_characters_of_a_hostile_config_do_not_reach_the_terminal(
    base: SourceCheckpoint,
) -> None:
    config = {"architectures": ["\x1b[2Jx" * 100], "rope_theta": "\x07"}
    report = verify(base, [expert(base, "hostile", config=config)])
    texts = [finding.message for finding in report.findings] + [report.rows[1].architecture or ""]
    assert all(text.isprintable() for text in texts)
    assert len(only(report, "architecture-differs").message) < 300


def test_a_checkpoint_without_config_is_a_warning(base: SourceCheckpoint) -> None:
    bare = expert(base, "bare")
    (bare.directory / "config.json").unlink()
    finding = only(verify(base, [described(bare.directory)]), "config-missing")
    assert finding.message.startswith("bare has no config.json")


def test_the_preflight_needs_nothing_but_headers_and_configs() -> None:
    headers = {"model.embed_tokens.weight": ("BF16", (32, 16)), UP: ("BF16", (48, 16))}
    config = CONFIG | {"tie_word_embeddings": True}
    base = CheckpointFacts("base", headers, config)
    wide = CheckpointFacts("wide", headers | {UP: ("F8_E4M3", (64, 16))}, config)
    other = CheckpointFacts("other", headers, config | {"model_type": "qwen2"})
    found = preflight(base, [wide, other])
    assert [(finding.severity, finding.subject, finding.code) for finding in found] == [
        ("error", "wide", "quantised-weights"),
        ("error", "wide", "shapes-differ"),
        ("error", "other", "architecture-differs"),
        ("info", "wide", "dtype-differs"),
    ]
    assert all(finding.mend for finding in found[:3])


def test_headers_that_agree_give_no_finding(base: SourceCheckpoint) -> None:
    facts = facts_of("base", open_checkpoint(base.directory))
    assert compare_headers("base", facts.headers, "copy", dict(facts.headers)) == []
