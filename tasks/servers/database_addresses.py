"""Addresses of databases as `stack.yaml` names them: well-formed, without what others may read."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from merge_core.errors import MergeflowError

VARIABLE = re.compile(r"\$\{(\w+)\}")
_NOT_ESCAPED = re.compile(r"%(?![0-9A-Fa-f]{2})")
_OPTIONS = {"sslmode", "host", "port", "user", "password"}
"""Of a database's address, after the question mark: those that psycopg2 and asyncpg both take."""


def check_postgresql(address: str) -> None:
    """Refuse what is no address of a PostgreSQL, or has an option that not every program takes.

    Raises:
        ValueError: says what to write; repeats nothing of the address but the option's name.
    """
    check_address(address, ("postgresql", "postgres"), "postgresql://host:5432/name")
    strange = {key for key, _ in parse_qsl(urlsplit(address).query)} - _OPTIONS
    if strange:
        raise ValueError(
            f"the option {min(strange)} is not one of both programs' drivers; they know"
            f" {', '.join(sorted(_OPTIONS))}"
        )


def check_address(address: str, schemes: tuple[str, ...], pattern: str) -> None:
    """Refuse an address that programs would read differently, without repeating any of it.

    Raises:
        ValueError: another scheme, or signs in a password that would have to be escaped.
    """
    filled = VARIABLE.sub("x", address)
    if urlsplit(filled).scheme not in schemes:
        raise ValueError(f"write it as {pattern}")
    if _is_torn(filled):
        raise ValueError(
            f"write it as {pattern}, and signs in a user or password that mean something else there"
            " (/ @ : % ? #) as %2F and so on; or write ${NAME}, which is escaped for you"
        )


def refuse_open_passwords(path: Path, values: Mapping[str, Any]) -> None:
    """Like ssh and libpq: a file that others can read must not hold a password."""
    open_to_others = stat.S_IMODE(path.stat().st_mode) & 0o077
    for key, value in values.items():
        passwords = _passwords(value) if isinstance(value, str) else []
        if open_to_others and not all(map(VARIABLE.fullmatch, passwords)):
            raise MergeflowError(
                f"{key} holds a password, and other users of this machine can read the file",
                where=str(path),
                mend=f"chmod 600 {path}, or write ${{NAME}} and set the variable NAME",
            )


def with_scheme(address: str, scheme: str) -> str:
    """The address for another driver."""
    return f"{scheme}://{address.partition('://')[2]}"


def shown_place(address: str) -> str:
    """`host:port/name` of a database's address, without user and password."""
    parts = urlsplit(address)
    query = dict(parse_qsl(parts.query))
    host = parts.hostname or query.get("host", "")
    port = parts.port or query.get("port")
    return f"{host}{f':{port}' if port else ''}{unquote(parts.path)}"


def _is_torn(address: str) -> bool:
    """Whether a sign that was not escaped ends the user, the password or the host too early."""
    parts = urlsplit(address)
    try:
        parts.port  # noqa: B018 - raises for a text that is no number
    except ValueError:
        return True
    rest = f"{parts.path}?{parts.query}#{parts.fragment}"
    return "@" in rest or bool(parts.fragment) or bool(_NOT_ESCAPED.search(address))


def _passwords(address: str) -> list[str]:
    """The part of an address that may be a password; the whole address where that is unclear."""
    if _is_torn(VARIABLE.sub("x", address)):
        return [address]
    parts = urlsplit(address)
    given = [value for key, value in parse_qsl(parts.query) if key == "password"]
    return [parts.password, *given] if parts.password else given
