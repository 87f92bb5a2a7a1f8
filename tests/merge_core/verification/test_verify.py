"""What `verify` says about checkpoints that do, do not, or may not belong in one merge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merge_core.errors import CompatibilityError
from merge_core.progress import ProgressEvent
from merge_core.records import SourceCheckpoint
from merge_core.verification.tolerance import Tolerance
from merge_core.verification.verify import (
    CompatibilityReport,
    raise_for_errors,
    verify,
    verify_key,
)
from tests.support.fine_tunes import CARD, UP, codes, expert, only
from tests.support.tiny_llama import (
    base_weights,
    described,
    fine_tuned,
    write_llama,
)


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
