"""What `verify` says about checkpoints that do, do not, or may not belong in one merge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.errors import CompatibilityError
from merge_core.findings import Finding
from merge_core.progress import ProgressEvent
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from merge_core.verification.header_comparison import compare_headers
from merge_core.verification.headers import CheckpointFacts, facts_of, preflight
from merge_core.verification.tolerance import Tolerance
from merge_core.verification.verify import (
    CompatibilityReport,
    raise_for_errors,
    verify,
    verify_key,
)
from tests.support.tiny_llama import (
    CONFIG,
    base_weights,
    described,
    fine_tuned,
    tokenizer_json,
    write_llama,
)

CARD = "---\nbase_model: {}\n---\n# A model\n"
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def base(tmp_path: Path) -> SourceCheckpoint:
    return write_llama(tmp_path / "base", base_weights())


def expert(base: SourceCheckpoint, name: str, seed: int = 1, **options: Any) -> SourceCheckpoint:
    """A fine-tune beside the base, with a model card that says so."""
    scale = options.pop("scale", 0.002)
    weights = fine_tuned(load_file(base.directory / "model.safetensors"), seed, scale)
    weights.update(options.pop("replaced", {}))
    for absent in options.pop("without", ()):
        del weights[absent]
    options.setdefault("card", CARD.format("base"))
    return write_llama(base.directory.parent / name, weights, **options)


def only(report: CompatibilityReport, code: str) -> Finding:
    """The one finding of a code; a test fails when there are more or none."""
    found = [finding for finding in report.findings if finding.code == code]
    assert len(found) == 1, [str(finding) for finding in report.findings]
    return found[0]


def codes(report: CompatibilityReport) -> set[str]:
    return {finding.code for finding in report.findings}


def test_fine_tunes_of_one_base_are_compatible_without_a_remark(base: SourceCheckpoint) -> None:
    report = verify(base, [expert(base, "code", 1), expert(base, "prose", 2)])
    assert report.findings == ()
    assert report.ok
    assert report.scanned
    assert [row.verdict for row in report.rows] == ["the base"] + ["fine-tune of the base"] * 2
    assert report.rows[1].role == "model"
    assert report.rows[1].architecture == "LlamaForCausalLM (llama)"
    assert report.rows[1].parameters == 3120
    assert report.rows[1].tokenizer == report.rows[0].tokenizer
    raise_for_errors(report)


def test_a_report_survives_json(base: SourceCheckpoint) -> None:
    report = verify(base, [expert(base, "code", template="other")])
    assert CompatibilityReport.model_validate_json(report.model_dump_json()) == report


def test_a_model_of_another_training_run_is_an_error_that_names_its_declared_base(
    base: SourceCheckpoint, tmp_path: Path
) -> None:
    trap = write_llama(tmp_path / "trap", base_weights(7), card=CARD.format("org/other-base"))
    report = verify(base, [trap])
    finding = only(report, "unrelated-weights")
    assert finding.severity == "error"
    assert finding.message.startswith("it is not a fine-tune of base: the cosine of its weights")
    assert finding.mend == (
        "name the checkpoint it was fine-tuned from as base_model (its model card names"
        " org/other-base), or leave it out; if you know better, say `allow_unrelated: true` in"
        " the recipe"
    )
    assert report.rows[1].verdict == "unrelated to the base"
    assert abs(report.rows[1].median_cosine or 0) < 0.1


def test_without_a_base_models_of_different_runs_are_an_error(
    base: SourceCheckpoint, tmp_path: Path
) -> None:
    report = verify(None, [base, write_llama(tmp_path / "stranger", base_weights(7))])
    finding = only(report, "unrelated-weights")
    assert finding.message.startswith("it and base come from different training runs")
    assert finding.mend == (
        "merge only checkpoints of one training run; leave one of the two out; if you know better,"
        " say `allow_unrelated: true` in the recipe"
    )


def test_without_a_base_checkpoints_of_one_run_are_compatible(base: SourceCheckpoint) -> None:
    report = verify(None, [expert(base, "step-100", 1), expert(base, "step-200", 2)])
    assert report.findings == ()
    assert [row.verdict for row in report.rows] == [
        "the first model",
        "of one origin with the first model",
    ]


def test_a_very_long_task_vector_is_a_warning(base: SourceCheckpoint) -> None:
    report = verify(base, [expert(base, "far", scale=0.035)])
    finding = only(report, "far-from-base")
    assert finding.severity == "warning"
    assert finding.message.startswith("it is far from base")
    assert "check that this is its base" in (finding.mend or "")
    assert report.ok


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


def test_a_different_shape_is_an_error_with_both_shapes(base: SourceCheckpoint) -> None:
    finding = only(
        verify(base, [expert(base, "wide", replaced={UP: torch.ones(64, 16)})]), "shapes-differ"
    )
    assert finding.severity == "error"
    assert f"{UP} [64, 16] instead of [48, 16]" in finding.message
    assert "same base" in (finding.mend or "")


def test_resized_embeddings_are_an_error_about_the_vocabulary(base: SourceCheckpoint) -> None:
    resized = {
        name: torch.randn(34, 16) for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    report = verify(base, [expert(base, "resized", replaced=resized)])
    finding = only(report, "vocabulary-size-differs")
    assert finding.severity == "error"
    assert "34 rows, in base 32" in finding.message
    assert "`tokenizer_source: union`" in (finding.mend or "")
    assert "shapes-differ" not in codes(report)


def test_a_merged_vocabulary_makes_tokenizer_differences_information(
    base: SourceCheckpoint,
) -> None:
    tokenizer = tokenizer_json()
    tokenizer["model"]["vocab"] |= {"a": 4, "b": 3}
    resized = {
        name: torch.randn(34, 16) for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    config = {"vocab_size": 34}
    odd = expert(base, "odd", tokenizer=tokenizer, replaced=resized, config=config)
    report = verify(base, [odd], tolerance=Tolerance(vocabulary=True))
    assert report.ok
    assert only(report, "vocabulary-differs").severity == "info"
    assert only(report, "vocabulary-size-differs").severity == "info"


def test_another_vocabulary_is_an_error_with_counts_and_examples(base: SourceCheckpoint) -> None:
    tokenizer = tokenizer_json()
    tokenizer["model"]["vocab"] |= {"a": 4, "b": 3}
    finding = only(
        verify(base, [expert(base, "swapped", tokenizer=tokenizer)]), "vocabulary-differs"
    )
    assert finding.severity == "error"
    assert "2 tokens with another id, 0 only here, 0 only there" in finding.message
    assert "'a' is id 4, there 3" in finding.message
    assert "`tokenizer_source: union`" in (finding.mend or "")


def test_a_damaged_tokenizer_is_an_error(base: SourceCheckpoint) -> None:
    broken = expert(base, "broken")
    (broken.directory / "tokenizer.json").write_text("{")
    finding = only(verify(base, [described(broken.directory)]), "checkpoint-refused")
    assert finding.severity == "error"
    assert finding.message.startswith("tokenizer.json is not JSON")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_nan_and_infinity_anywhere_are_an_error_that_counts_them(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    base = write_llama(tmp_path / "base", base_weights(dtype=dtype))
    weights = fine_tuned(base_weights(dtype=dtype), 1)
    weights[UP][3, 4] = float("nan")
    weights[UP][5, 6] = float("-inf")
    weights["model.norm.weight"][15] = float("inf")
    broken = write_llama(tmp_path / "broken", weights)
    report = verify(base, [broken])
    finding = only(report, "non-finite-weights")
    assert finding.severity == "error"
    assert finding.subject == "broken"
    assert finding.message == (
        "2 tensors with values that are no numbers:"
        f" {UP} (1 NaN, 1 infinite), model.norm.weight (1 infinite)"
    )
    assert "earlier checkpoint" in (finding.mend or "")
    assert "non-finite-weights" not in codes(verify(base, [broken], scan_weights=False))


def test_quantised_weights_are_an_error(base: SourceCheckpoint) -> None:
    int8 = torch.zeros(48, 16, dtype=torch.int8)
    packed = expert(
        base, "packed", replaced={UP: int8}, config={"quantization_config": {"quant_method": "x8"}}
    )
    finding = only(verify(base, [packed]), "quantised-weights")
    assert finding.severity == "error"
    assert "quantised (x8): 1 tensor of packed or 8-bit values" in finding.message
    assert f"{UP} is int8" in finding.message
    assert "unquantised checkpoint" in (finding.mend or "")


def test_a_quantisation_that_only_the_config_shows_is_a_key_left_over(
    base: SourceCheckpoint,
) -> None:
    config = {"quantization_config": {"quant_method": "gptq"}}
    report = verify(base, [expert(base, "gptq", config=config)])
    finding = only(report, "quantisation-left-over")
    assert report.ok
    assert finding.where == "config.json: quantization_config"
    assert "no tensor is packed" in finding.message


def test_float8_weights_are_an_error(base: SourceCheckpoint) -> None:
    float8 = torch.zeros(48, 16).to(torch.float8_e4m3fn)
    finding = only(verify(base, [expert(base, "f8", replaced={UP: float8})]), "quantised-weights")
    assert "float8_e4m3fn" in finding.message


def test_a_pickled_checkpoint_is_refused_with_what_to_do(
    base: SourceCheckpoint, tmp_path: Path
) -> None:
    (tmp_path / "pickle").mkdir()
    (tmp_path / "pickle" / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    source = SourceCheckpoint(
        reference="pickle", path=str(tmp_path / "pickle"), digest="0" * 64, files=()
    )
    report = verify(base, [source])
    finding = only(report, "checkpoint-refused")
    assert "pytorch_model.bin is a pickle" in finding.message
    assert "save_pretrained" in (finding.mend or "")
    assert report.rows[1].verdict == "cannot be read"


def test_a_truncated_file_is_refused_and_the_others_are_still_examined(
    base: SourceCheckpoint,
) -> None:
    cut, odd = expert(base, "cut", 1), expert(base, "odd", 2, template="another")
    file = cut.directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    report = verify(base, [cut, odd])
    assert "is truncated" in only(report, "checkpoint-refused").message
    assert "chat-template-differs" in codes(report)


def test_a_base_that_cannot_be_read_is_reported_without_guessing_about_the_rest(
    base: SourceCheckpoint,
) -> None:
    model = expert(base, "code")
    (base.directory / "model.safetensors").unlink()
    report = verify(base, [model])
    assert [finding.subject for finding in report.errors] == ["base"]
    assert report.rows[1].verdict == "not comparable"


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


def test_another_chat_template_is_a_warning(base: SourceCheckpoint) -> None:
    finding = only(verify(base, [expert(base, "chat", template="x")]), "chat-template-differs")
    assert finding.severity == "warning"
    assert "differs from that of base" in finding.message
    assert "chat_template in the recipe" in (finding.mend or "")


def test_a_missing_chat_template_is_information(base: SourceCheckpoint) -> None:
    finding = only(verify(base, [expert(base, "bare", template=None)]), "chat-template-missing")
    assert finding.severity == "info"


def test_another_end_of_text_token_is_a_warning(base: SourceCheckpoint) -> None:
    chat = expert(base, "chat", config={"eos_token_id": [2, 9]})
    config = chat.directory / "tokenizer_config.json"
    config.write_text(json.dumps({"bos_token": "<s>", "eos_token": {"content": "<end>"}}))
    finding = only(verify(base, [chat]), "eos-differs")
    assert finding.severity == "warning"
    assert "id 2, 9 instead of 2 and '<end>' instead of '</s>'" in finding.message
    assert "generation_config.json" in (finding.mend or "")


def test_generation_settings_decide_over_the_config_where_text_ends(
    base: SourceCheckpoint,
) -> None:
    chat = expert(base, "chat", config={"eos_token_id": 9})
    (chat.directory / "generation_config.json").write_text('{"eos_token_id": 2}')
    assert verify(base, [described(chat.directory)]).findings == ()


@pytest.mark.parametrize("broken", ["base", "chat"])
def test_damaged_generation_settings_are_blamed_on_the_checkpoint_that_has_them(
    base: SourceCheckpoint, broken: str
) -> None:
    sources = {"base": base, "chat": expert(base, "chat")}
    (sources[broken].directory / "generation_config.json").write_text("[1]")
    report = verify(base, [sources["chat"]])
    assert [each.subject for each in report.findings if each.severity == "error"] == [broken]


def test_a_missing_declaration_is_information_when_the_weights_tell(
    base: SourceCheckpoint,
) -> None:
    finding = only(verify(base, [expert(base, "quiet", card=None)]), "declared-base-unknown")
    assert finding.severity == "info"
    assert "measured, it descends from this base" in finding.message


def test_a_missing_declaration_is_a_warning_when_the_weights_leave_a_doubt(
    base: SourceCheckpoint,
) -> None:
    finding = only(
        verify(base, [expert(base, "quiet", card=None, scale=0.035)]), "declared-base-unknown"
    )
    assert finding.severity == "warning"
    assert "ask its publisher" in (finding.mend or "")


def test_another_declared_base_than_the_hub_model_named_is_a_warning(
    base: SourceCheckpoint,
) -> None:
    hub = base.model_copy(update={"reference": "org/base-7b"})
    finding = only(
        verify(hub, [expert(base, "code", card=CARD.format("org/base-7b-instruct"))]),
        "declared-base-differs",
    )
    assert finding.severity == "warning"
    assert "names org/base-7b-instruct as its base, the recipe org/base-7b" in finding.message
    assert "name the declared base as base_model" in (finding.mend or "")


def test_a_local_copy_cannot_be_told_by_name_so_another_declared_base_is_information(
    base: SourceCheckpoint,
) -> None:
    local = base.model_copy(update={"reference": base.path})
    report = verify(local, [expert(base, "code", card=CARD.format("org/name"))])
    assert only(report, "declared-base-differs").severity == "info"


@pytest.mark.parametrize(
    "card",
    [
        CARD.format("org/Base"),
        CARD.format("[org/other, org/base]"),
        "---\nlicense: mit\nbase_model:\n- org/base\n- other\n---\n",
    ],
)
def test_a_declared_base_is_found_in_every_notation(base: SourceCheckpoint, card: str) -> None:
    hub = base.model_copy(update={"reference": "org/base@main"})
    assert verify(hub, [expert(base, "code", card=card)]).findings == ()


def test_a_model_card_that_is_no_yaml_is_as_good_as_none(base: SourceCheckpoint) -> None:
    report = verify(base, [expert(base, "code", card="---\nbase_model: [\n---\n")])
    assert codes(report) == {"declared-base-unknown"}


def test_another_dtype_is_information(base: SourceCheckpoint) -> None:
    weights = {name: t.bfloat16() for name, t in fine_tuned(base_weights(), 1).items()}
    model = write_llama(base.directory.parent / "half", weights, card=CARD.format("base"))
    finding = only(verify(base, [model]), "dtype-differs")
    assert finding.severity == "info"
    assert "bfloat16, those of base float32" in finding.message


def test_a_task_vector_that_dwarfs_another_is_a_warning_with_both_lengths(
    base: SourceCheckpoint,
) -> None:
    loud, quiet = expert(base, "loud", 1, scale=0.01), expert(base, "quiet", 2, scale=0.001)
    finding = only(verify(base, [loud, quiet]), "task-vector-dwarfs-another")
    assert finding.severity == "warning"
    assert finding.subject == "loud"
    assert "times as long as that of quiet" in finding.message
    assert "give it less weight, about 0.1" in (finding.mend or "")


def test_task_vectors_of_similar_length_are_no_warning(base: SourceCheckpoint) -> None:
    one, other = expert(base, "one", 1, scale=0.004), expert(base, "other", 2, scale=0.002)
    assert verify(base, [one, other]).findings == ()


def test_an_expert_that_is_the_base_is_a_warning(base: SourceCheckpoint) -> None:
    report = verify(base, [expert(base, "same", scale=0.0), expert(base, "code")])
    finding = only(report, "identical-to-base")
    assert finding.severity == "warning"
    assert finding.message == "its weights are exactly those of base; its task vector is zero"
    assert "leave it out" in (finding.mend or "")
    assert report.rows[1].verdict == "no different from the base"


def test_two_equal_experts_are_a_warning_however_they_are_sharded(base: SourceCheckpoint) -> None:
    one, twin = expert(base, "one", 3), expert(base, "twin", 3)
    weights = load_file(twin.directory / "model.safetensors")
    (twin.directory / "model.safetensors").unlink()
    files = {name: f"model-{i:05}-of-00009.safetensors" for i, name in enumerate(weights, 1)}
    for name, file in files.items():
        save_file({name: weights[name]}, twin.directory / file)
    index = twin.directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    finding = only(verify(base, [one, described(twin.directory)]), "identical-models")
    assert finding.severity == "warning"
    assert finding.subject == "twin"
    assert finding.message == "its weights are exactly those of one; they count twice"


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


def test_errors_come_first_and_are_raised_together(base: SourceCheckpoint, tmp_path: Path) -> None:
    trap = write_llama(tmp_path / "trap", base_weights(7), template="x")
    odd = expert(base, "odd", without=[UP])
    report = verify(base, [trap, odd])
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)
    with pytest.raises(CompatibilityError) as raised:
        raise_for_errors(report)
    message = str(raised.value)
    assert message.startswith("2 reasons why these cannot be merged:\n- ")
    assert "trap: it is not a fine-tune of base" in message
    assert "odd: it lacks 1 tensor" in message
    assert message.count("what to do: ") == 2


def test_one_error_is_raised_as_it_is(base: SourceCheckpoint) -> None:
    report = verify(base, [expert(base, "odd", without=["lm_head.weight"])])
    with pytest.raises(CompatibilityError, match="it lacks 1 tensor that base has") as raised:
        raise_for_errors(report)
    assert raised.value.where == "odd"
    assert raised.value.mend is not None


def test_a_checkpoint_that_is_listed_twice_is_examined_once(base: SourceCheckpoint) -> None:
    model = expert(base, "code")
    report = verify(base, [base, model, model])
    assert [row.reference for row in report.rows] == ["base", "code"]
    assert report.findings == ()


def test_progress_counts_every_byte_of_weights_once(base: SourceCheckpoint) -> None:
    events: list[ProgressEvent] = []
    verify(base, [expert(base, "code")], progress=events.append)
    assert events[-1].done == events[-1].total == 2 * 4 * 3120


def test_the_key_follows_contents_names_claims_and_options(base: SourceCheckpoint) -> None:
    one, other = expert(base, "one", 1), expert(base, "other", 2)
    key = verify_key(base, [one, other])
    assert verify_key(base, [one, other]) == key
    changed = [
        verify_key(None, [base, one, other]),
        verify_key(base, [one]),
        verify_key(base, [one.model_copy(update={"digest": "f" * 64}), other]),
        verify_key(base, [one.model_copy(update={"reference": "uno"}), other]),
        verify_key(base, [one, other], scan_weights=False),
        verify_key(base, [one, other], tolerance=Tolerance(vocabulary=True)),
    ]
    (one.directory / "README.md").write_text(CARD.format("another"))
    changed.append(verify_key(base, [one, other]))
    assert len({key, *changed}) == len(changed) + 1


def test_the_preflight_needs_nothing_but_headers_and_configs() -> None:
    headers = {"model.embed_tokens.weight": ("BF16", (32, 16)), UP: ("BF16", (48, 16))}
    base = CheckpointFacts("base", headers, CONFIG)
    wide = CheckpointFacts("wide", headers | {UP: ("F8_E4M3", (64, 16))}, CONFIG)
    other = CheckpointFacts("other", headers, CONFIG | {"model_type": "qwen2"})
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
