"""What `verify` says of tokenizers, chat templates and where a text ends."""

from __future__ import annotations

import json

import pytest
import torch

from merge_core.records import SourceCheckpoint
from merge_core.verification.tolerance import Tolerance
from merge_core.verification.verify import (
    verify,
)
from tests.support.fine_tunes import codes, expert, only
from tests.support.tiny_llama import (
    described,
    tokenizer_json,
)


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
