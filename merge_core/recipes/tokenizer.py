"""The recipe's `tokenizer` block, as mergekit writes it: whose tokens, and whose rows for them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from merge_core.records import Record

UNION = "union"
BASE = "base"


class ModelToken(Record):
    """The row that a model has for one of its tokens, named by its text or by its id."""

    kind: Literal["model_token"]
    model: str = Field(min_length=1)
    token: str | None = None
    token_id: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_of_two(self) -> ModelToken:
        if (self.token is None) == (self.token_id is None):
            raise ValueError("name the token either by token (its text) or by token_id")
        return self


class ZeroRow(Record):
    """A row of zeros."""

    kind: Literal["zero"]


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("kind"))
    return str(getattr(value, "kind", "reference"))


RowSource = Annotated[
    Annotated[ModelToken, Tag("model_token")]
    | Annotated[ZeroRow, Tag("zero")]
    | Annotated[str, Tag("reference")],
    Discriminator(_kind),
]
"""A model's reference (its row for the same token), a `model_token`, or `zero`."""


class TokenSetting(Record):
    """Where the row of one token comes from in the models that lack it."""

    source: RowSource | None = None
    force: bool = False
    """Also in the models that have the token."""

    @model_validator(mode="after")
    def _forced_from_somewhere(self) -> TokenSetting:
        if self.force and self.source is None:
            raise ValueError("force needs a source")
        return self


class TokenizerSettings(Record):
    """The result's vocabulary."""

    source: str = UNION
    """`union`, `base`, or the reference of the model whose tokenizer the result has."""
    pad_to_multiple_of: int | None = Field(default=None, ge=1)
    """Rows are added up to a multiple of this; 1 leaves none beyond the tokens."""
    tokens: dict[str, TokenSetting] = Field(default_factory=dict)

    def references(self) -> list[tuple[str, str]]:
        """Every model that is named here, with its YAML path within the block."""
        found = [("source", self.source)] if self.source not in (UNION, BASE) else []
        for token, setting in self.tokens.items():
            if isinstance(setting.source, str):
                found.append((f"tokens.{token}.source", setting.source))
            elif isinstance(setting.source, ModelToken):
                found.append((f"tokens.{token}.source.model", setting.source.model))
        return found
