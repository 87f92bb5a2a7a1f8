"""The form of an audit in Prefect's UI: one registered version, or all of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from flows.settings.sentences import expect

_ADDRESS = r"^(?:models:/[^/@\s]+(?:@[^/@\s]+|/[0-9]+))?$(?!\n)"


Version = Annotated[
    str,
    Field(
        json_schema_extra={
            "title": "Version",
            "description": "models:/NAME@champion or models:/NAME/3. Empty: every version of every"
            " model that mergeflow registered.",
            "examples": ["models:/my-llama@champion"],
            **expect("models:/NAME@champion or models:/NAME/3; or nothing", {"pattern": _ADDRESS}),
        },
    ),
]


class AuditForm(BaseModel):
    """Compare registered versions with all that is recorded of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Version = ""
