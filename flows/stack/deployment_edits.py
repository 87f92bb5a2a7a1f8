"""Which fields of a deployment are the user's, and the values that `up` gave to it last.

A deployment is taken apart into fields. A field that is on the server as it was given last is the
file's; one that is not was edited in Prefect, and stays.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from merge_core.files.private import write_private
from merge_core.homes.home import Home
from merge_core.text.plain import plain

Fields = dict[str, Any]
"""Values as JSON has them, by a name such as `parameters.suite` or `schedules.nightly`."""

_ABSENT: Any = object()


@dataclass
class Settled:
    """The fields that a deployment is to have."""

    fields: Fields = field(default_factory=dict)
    given: Fields = field(default_factory=dict)
    """The values to remember as given by the file."""
    left_out: Fields = field(default_factory=dict)
    """New values in the file for fields that the user edited; they were left alone."""

    def take(self, name: str, file: Mapping[str, Any]) -> None:
        """Give the file's value to a field, whatever the user made of it."""
        for fields in (self.fields, self.given):
            fields.pop(name, None)
            if name in file:
                fields[name] = file[name]
        self.left_out.pop(name, None)

    def said_of(self, deployment: str) -> list[str]:
        """A sentence for each of these."""
        return [
            f"{deployment}: {plain(name)} was edited in Prefect and is kept; left out:"
            f" {plain(json.dumps(value, sort_keys=True, ensure_ascii=False), 400)}"
            for name, value in self.left_out.items()
        ]


def settle(
    file: Mapping[str, Any],
    server: Mapping[str, Any],
    last: Mapping[str, Any] | None,
    former: Sequence[Mapping[str, Any]] = (),
) -> Settled:
    """The file's fields, but for those that the user edited on the server.

    Args:
        last: the values that the file gave to this deployment; None where they were not noted.
        former: what files of earlier versions gave, to tell edits by where nobody remembers.
    """
    settled = Settled()
    for name in {**file, **server, **(last or {})}:
        new, now = file.get(name, _ABSENT), server.get(name, _ABSENT)
        before = (last or {}).get(name, _ABSENT)
        if last is None:
            edited = all(now != each.get(name, _ABSENT) for each in (file, *former))
        else:
            edited = now not in (new, before)
        if edited and new not in (_ABSENT, before):
            settled.left_out[name] = _said_anew(new, now)
        if (value := now if edited else new) is not _ABSENT:
            settled.fields[name] = value
        if (value := before if edited else new) is not _ABSENT:
            settled.given[name] = value
    return settled


def _said_anew(new: Any, now: Any) -> Any:
    """The values of the file that the deployment does not have."""
    if not (isinstance(new, dict) and isinstance(now, dict)):
        return new
    return {
        key: _said_anew(value, now.get(key, _ABSENT))
        for key, value in new.items()
        if value != now.get(key, _ABSENT)
    }


class GivenDeployments:
    """What each deployment was given last, kept in the home."""

    def __init__(self, home: Home) -> None:
        self._file = home.stack / "deployments.json"
        self._kept: dict[str, Fields] = _read(self._file)

    def of(self, name: str) -> Fields | None:
        """The values that this deployment was given; None where they were not noted."""
        return self._kept.get(name)

    def keep(self, name: str, given: Fields) -> None:
        """Note the values that this deployment was given."""
        self._kept[name] = given
        write_private(self._file, json.dumps(self._kept, indent=2, sort_keys=True))


def _read(file: Path) -> dict[str, Fields]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(file.read_text("utf-8"))
        if isinstance(found, dict) and all(isinstance(each, dict) for each in found.values()):
            return found
    return {}


def group(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The fields below one name: `parameters` of `parameters.suite` and so on."""
    start = f"{name}."
    return {key.removeprefix(start): v for key, v in fields.items() if key.startswith(start)}


def spread(name: str, values: Mapping[str, Any]) -> Fields:
    """The reverse of `group`."""
    return {f"{name}.{key}": value for key, value in values.items()}
