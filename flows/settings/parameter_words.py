"""What is wrong with a flow's parameters, in the words of a form and a YAML file.

Prefect's server checks the parameters of a run by the schema of its form. The flow itself checks
what a schema cannot say, and what comes by another way (`prefect deployment run --param`, the API).
Left to Prefect, the message would be that of its validator.
"""

from __future__ import annotations

from typing import Any, TypeVar

from prefect.flows import Flow
from pydantic import BaseModel

from merge_core.files.strict_yaml import validated

F = TypeVar("F", bound=Flow[..., Any])


def in_our_words(made: F, model: type[BaseModel], name: str | None = None) -> F:
    """Have a flow say itself what is wrong with its parameters.

    Args:
        model: of all parameters together, or of the one that is named.
    """
    ordinary = made.validate_parameters

    def validate(parameters: dict[str, Any]) -> dict[str, Any]:
        if name is None:
            validated(model, parameters, "parameters")
        elif not isinstance(parameters.get(name), model):
            validated(model, parameters.get(name), name)
        return ordinary(parameters)

    made.validate_parameters = validate  # type: ignore[method-assign]
    return made
