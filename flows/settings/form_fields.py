"""The fields that the forms in Prefect's UI are made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from flows.settings.pipeline import NAME
from flows.settings.promotion_form import PromotionForm
from flows.settings.sentences import Schema, expect, in_range, only, range_of
from merge_core.methods.base import Method
from merge_core.methods.parameter import Parameter
from tasks.evaluation.suite import shipped_suites

_NAME = "letters, digits, dot, dash and underscore, the first a letter or a digit, at most 80"
_REFERENCE = (
    "a directory such as ./runs/code, a model on the Hub such as meta-llama/Llama-3.2-1B, or a"
    " registered one such as models:/my-llama@champion"
)
_TEXT = {"pattern": r"\S"}
AS_STORED = "as the base"


def asked_for(starts_as: Any, *examples: Any) -> Schema:
    """What the page starts a required field with. An empty text is refused with the field's own
    sentence; a field that is not sent at all would be refused by its name alone."""
    return {"default": starts_as, "examples": list(examples)}


# To Python, `$` is also before a last newline, which Enter makes in the fields of these pages.
_END = r"(?!\n)"
NAME_OF_RUN = {**asked_for("", "code-and-prose"), **expect(_NAME, {"pattern": NAME + _END})}
REGISTERED_MODEL = {
    "examples": ["my-llama"],
    **expect(f"{_NAME}; or nothing", {"pattern": f"^${_END}|{NAME}{_END}"}),
}
REFERENCE_GIVEN = expect(_REFERENCE, _TEXT)
MODEL = {**asked_for("", "./runs/code"), **REFERENCE_GIVEN}
BASE = {**asked_for("", "meta-llama/Llama-3.2-1B"), **REFERENCE_GIVEN}
SUITE_OR_DIRECTORY = expect(
    f"a suite directory such as ./my-suite, or one of {', '.join(shipped_suites())}", _TEXT
)
DEVICE = only(("auto", "cpu", "cuda", *(f"cuda:{n}" for n in range(8))))
STORED_TYPE = only((AS_STORED, "bfloat16", "float16", "float32"))


def rows(fewest: int, row: Schema, shown: int = 2) -> Schema:
    """A list of at least `fewest` rows, of which the page shows some from the start."""
    count = {1: "one model", 2: "two models"}.get(fewest, f"{fewest} models")
    return {
        "default": [row] * max(fewest, shown),
        **expect(f"at least {count}, one row each", {"minItems": fewest}),
    }


def parameter_of(method: Method, name: str) -> Parameter:
    """What a method says of one of its parameters."""
    return next(parameter for parameter in method.parameters if parameter.name == name)


def number(parameter: Parameter, title: str, starts_as: float, more: str = "") -> Any:
    """A field for a number that a method takes: its bounds and its help are the method's own."""
    said = f"{parameter.help}, {range_of(parameter.low, parameter.high)}"
    extra: Schema = {"default": starts_as, "examples": [starts_as]} | in_range(
        parameter.low, parameter.high, parameter.help
    )
    return Field(
        title=title,
        description=f"{said[0].upper()}{said[1:]}.{more and ' '}{more}",
        json_schema_extra=extra,
    )


class Judged(BaseModel):
    """What every form asks for beside the merge: its name, how it is judged, where it is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        title="Name",
        description="What this merge is called in the lists, in place of the run name above:"
        " letters, digits, dot, dash and underscore. For example code-and-prose.",
        json_schema_extra=NAME_OF_RUN,
    )
    promote: PromotionForm = Field(
        default_factory=PromotionForm,
        title="Promotion rule",
        description="When the merged checkpoint may replace the base.",
    )
    registered_model: str = Field(
        default="",
        title="Registered model",
        description="Name in MLflow's model registry, for example my-llama. Empty, the merge is not"
        " registered.",
        json_schema_extra=REGISTERED_MODEL,
    )
    device: str = Field(
        default="auto",
        title="Device",
        description="Where to merge and evaluate. Auto takes a GPU when there is one.",
        json_schema_extra=DEVICE,
    )
    dry_run: bool = Field(
        default=False,
        title="Only check",
        description="Only check the form, the suite and the checkpoints' headers. Nothing is"
        " written.",
    )
