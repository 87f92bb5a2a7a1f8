"""Who holds the alias `champion` and by whose doing, as the registered model's tags say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import ValidationError

from merge_core.records import Record
from tasks.registry.client import TAG, Registry
from tasks.registry.versions import CHAMPION

PIN_TAG = TAG + "pin"
NOTE_TAG = TAG + "champion"
R = TypeVar("R", bound=Record)


class Pin(Record):
    """A version that a person chose. Runs leave the alias with it until it is taken off."""

    version: str
    why: str
    by: str | None = None
    """The name that was typed; nobody has checked it."""
    at: str
    how: Literal["promote", "rollback"]

    def sentence(self, name: str) -> str:
        """Why a run leaves the alias alone."""
        by = f"by {self.by}, as typed, " if self.by else ""
        return (
            f"version {self.version} was pinned {by}at {self.at} with `mergeflow {self.how}`:"
            f" {self.why}; `mergeflow unpin {name}` lets runs move it again"
        )


class Note(Record):
    """What our last move of the alias left."""

    version: str | None
    moving_to: str | None = None
    """The version that a move was about to give it: this one or `version` has it."""
    previous: str | None = None
    at: str
    how: str
    chain: str | None = None
    """The history that has the move, in the home that made it."""


@dataclass(frozen=True)
class AliasState:
    """Who holds the alias of a model, and by whose doing."""

    name: str
    holder: str | None
    pin: Pin | None
    note: Note | None
    tags: Mapping[str, str]

    @property
    def is_pinned(self) -> bool:
        """Whether a person chose the holder with a command of ours."""
        return self.pin is not None and self.holder == self.pin.version

    @property
    def moved_elsewhere(self) -> bool:
        """Whether somebody else put the alias where it is: in MLflow's pages, or by its client.

        A registry in which we never moved it tells nothing, and one without the alias is free.
        """
        if self.holder is None or self.note is None or self.is_pinned:
            return False
        return self.holder not in (self.note.version, self.note.moving_to)

    def why_it_stays(self) -> str | None:
        """Why no run may move the alias; None where one may."""
        if self.pin is not None and self.is_pinned:
            return self.pin.sentence(self.name)
        if self.moved_elsewhere:
            return (
                f"somebody gave it to version {self.holder} outside of mergeflow, and that is"
                f" respected; `mergeflow unpin {self.name}` lets runs move it again"
            )
        return None


def alias_state(registry: Registry, name: str) -> AliasState:
    """Who holds the alias, as the registry says it now."""
    model = registry.client.get_registered_model(name)
    tags = dict(model.tags)
    holder = model.aliases.get(CHAMPION)
    return AliasState(
        name=name,
        holder=None if holder is None else str(holder),
        pin=_parsed(Pin, tags.get(PIN_TAG)),
        note=_parsed(Note, tags.get(NOTE_TAG)),
        tags=tags,
    )


def _parsed(kind: type[R], text: str | None) -> R | None:
    try:
        return kind.model_validate_json(text) if text else None
    except ValidationError:
        return None
