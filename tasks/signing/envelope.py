"""DSSE envelopes: signed bytes with their type, in JSON. Written here, and read with suspicion.

Nothing of an envelope is believed before its signature is verified, and then only the payload: the
key id beside it is a hint that anybody can change. One signature, one spelling, no key twice.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from merge_core.errors import one_line
from merge_core.files.bounded_json import parse_json
from merge_core.findings import printable
from tasks.signing.keys import PrivateKey, PublicKey

IN_TOTO = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
LONGEST = 16 << 20
"""Bytes of an envelope; a statement on ten thousand files has one."""


class UnsoundError(ValueError):
    """A signature file that is not what it has to be. The text says why, in our words."""


@dataclass(frozen=True)
class Envelope:
    """A payload of type in-toto with one signature, neither of them verified yet."""

    payload: bytes
    signature: bytes
    key_id: str
    """The key that it names, which nothing vouches for."""

    def signer(self, keys: Iterable[PublicKey]) -> PublicKey | None:
        """The key that signed it, of these, whichever it names."""
        signed = pae(self.payload)
        return next((key for key in keys if key.verifies(self.signature, signed)), None)

    def statement(self) -> dict[str, Any]:
        """The payload as an in-toto statement. To be asked after `signer`.

        Raises:
            UnsoundError: it is none.
        """
        found = parsed(self.payload, "the payload")
        if found.get("_type") != STATEMENT:
            raise UnsoundError("the payload is no in-toto statement of version 1")
        return found


def pae(payload: bytes, payload_type: str = IN_TOTO) -> bytes:
    """What is signed of a payload: its type, length and bytes (pre-authentication encoding)."""
    named = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(named), named, len(payload), payload)


def seal(statement: Mapping[str, Any], key: PrivateKey) -> bytes:
    """An envelope around a statement, signed by a key."""
    payload = json.dumps(statement, ensure_ascii=False, separators=(",", ":")).encode()
    signature = {"keyid": key.public.key_id, "sig": _encoded(key.sign(pae(payload)))}
    return _written(
        {"payload": _encoded(payload), "payloadType": IN_TOTO, "signatures": [signature]}
    )


def read_envelope(content: bytes) -> Envelope:
    """An envelope as `seal` writes it, and in no other spelling.

    Raises:
        UnsoundError: it is none.
    """
    values = parsed(content, "it")
    found = envelope_of(values)
    if _written(values) != content:
        raise UnsoundError("it is not spelled as mergeflow writes it")
    return found


def envelope_of(values: Any) -> Envelope:
    """An envelope from its JSON value.

    Raises:
        UnsoundError: it is none, or says more than an envelope with one signature.
    """
    exactly(values, {"payload", "payloadType", "signatures"}, "the envelope")
    if values["payloadType"] != IN_TOTO:
        raise UnsoundError(f"its payload is of type {printable(values['payloadType'], 60)}")
    signatures = values["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise UnsoundError("it has not exactly one signature")
    exactly(signatures[0], {"keyid", "sig"}, "the signature")
    key_id = signatures[0]["keyid"]
    if not isinstance(key_id, str):
        raise UnsoundError("the id of its key is no text")
    return Envelope(_decoded(values["payload"]), _decoded(signatures[0]["sig"]), key_id)


def parsed(content: bytes, what: str) -> dict[str, Any]:
    """A JSON object, of a size and depth that we would have written, no key twice.

    Raises:
        UnsoundError: it is none.
    """
    if len(content) > LONGEST:
        raise UnsoundError(f"{what} is larger than {LONGEST >> 20} MiB")
    try:
        value = parse_json(content, unique_keys=True, finite=True)
    except ValueError as error:
        raise UnsoundError(f"{what} is not JSON: {one_line(error)}") from None
    if not isinstance(value, dict):
        raise UnsoundError(f"{what} is no JSON object")
    return value


def exactly(values: Any, keys: set[str], what: str) -> None:
    """Refuse what is no object with these keys and no others.

    Raises:
        UnsoundError: it is something else.
    """
    if not isinstance(values, dict) or set(values) != keys:
        raise UnsoundError(f"{what} has not the fields {', '.join(sorted(keys))} and no others")


def _written(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _decoded(text: Any) -> bytes:
    """The bytes of base64, in its only spelling."""
    try:
        content = base64.b64decode(text.encode("ascii"), validate=True)
    except (AttributeError, UnicodeEncodeError, binascii.Error, ValueError):
        raise UnsoundError("a field is not base64") from None
    if _encoded(content) != text:
        raise UnsoundError("a field is not base64 in its only spelling")
    return content
