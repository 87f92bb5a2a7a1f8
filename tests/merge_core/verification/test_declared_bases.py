"""What `verify` says of the base that a model card declares."""

from __future__ import annotations

from pathlib import Path

import pytest

from merge_core.records import SourceCheckpoint
from merge_core.verification.verify import (
    verify,
)
from tests.support.fine_tunes import CARD, codes, expert, only
from tests.support.tiny_llama import (
    base_weights,
    write_llama,
)


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
