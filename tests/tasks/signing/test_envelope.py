"""Envelopes: checked by another library, and every byte that somebody may change."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.dsse import Envelope as OtherEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from merge_core.homes.home import Home
from tasks.signing.envelope import LONGEST, UnsoundError, pae, read_envelope, seal
from tasks.signing.keys import PrivateKey
from tests.support.signed import edited, key

STATEMENT = {"_type": "https://in-toto.io/Statement/v1", "subject": [], "n": 1, "ü": "\u2028"}


@pytest.fixture
def signer(home: Home) -> PrivateKey:
    return key(home)


def judge(signer: PrivateKey) -> SSlibKey:
    """The same key, as securesystemslib reads it."""
    return SSlibKey.from_crypto(load_pem_public_key(signer.public.pem), keyid=signer.public.key_id)


def test_another_library_verifies_what_was_signed(signer: PrivateKey) -> None:
    content = seal(STATEMENT, signer)
    theirs, ours = OtherEnvelope.from_dict(json.loads(content)), read_envelope(content)
    assert theirs.verify([judge(signer)], 1).keys() == {signer.public.key_id}
    assert theirs.pae() == pae(ours.payload)
    assert json.loads(theirs.payload) == ours.statement() == STATEMENT


def test_another_library_refuses_what_was_changed(signer: PrivateKey) -> None:
    payload = base64.b64encode(json.dumps(STATEMENT | {"n": 2}).encode()).decode()
    changed = edited(seal(STATEMENT, signer), payload=payload)
    assert read_envelope(changed).signer([signer.public]) is None
    with pytest.raises(VerificationError):
        OtherEnvelope.from_dict(json.loads(changed)).verify([judge(signer)], 1)


def test_the_encoding_that_is_signed_is_the_standards_own() -> None:
    """The example of DSSE's protocol."""
    example = pae(b"hello world", "http://example.com/HelloWorld")
    assert example == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae("ü".encode())[-4:] == b"2 \xc3\xbc"


def test_no_byte_can_be_changed(signer: PrivateKey) -> None:
    """Each bit of every byte by turns; what is still read names another key, or is not signed."""
    content, chance = seal(STATEMENT, signer), random.Random(0)
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << chance.randrange(8)
        try:
            found = read_envelope(bytes(changed))
        except UnsoundError:
            continue
        assert found.signer([signer.public]) is None or found.key_id != signer.public.key_id, place


def test_no_byte_can_be_cut_or_added(signer: PrivateKey) -> None:
    content = seal(STATEMENT, signer)
    for changed in (b"", content[:-1], content[:-2], content + b"\n", b" " + content, content * 2):
        with pytest.raises(UnsoundError):
            read_envelope(changed)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another type of payload": (lambda v: v.update(payloadType="text/plain"), "text/plain"),
    "a type that is no text": (lambda v: v.update(payloadType=["a"]), "of type"),
    "no signature": (lambda v: v.update(signatures=[]), "exactly one"),
    "two signatures": (lambda v: v["signatures"].append(v["signatures"][0]), "exactly one"),
    "signatures by name": (lambda v: v.update(signatures={"0": v["signatures"][0]}), "exactly one"),
    "a field more": (lambda v: v.update(more=1), "no others"),
    "a field less": (lambda v: v.pop("payloadType"), "no others"),
    "a certificate": (lambda v: v["signatures"][0].update(cert="x"), "no others"),
    "an id that is no text": (lambda v: v["signatures"][0].update(keyid=None), "no text"),
    "a payload that is no text": (lambda v: v.update(payload=7), "not base64"),
    "a payload for addresses": (lambda v: v.update(payload="__--"), "not base64"),
    "a payload with a line break": (lambda v: v.update(payload=v["payload"] + "\n"), "base64"),
    "a payload without its end": (lambda v: v.update(payload=v["payload"] + "Q"), "not base64"),
    "a payload spelled otherwise": (lambda v: v.update(payload="QR=="), "only spelling"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_envelope_that_says_something_else_is_refused(signer: PrivateKey, change: str) -> None:
    values = json.loads(seal(STATEMENT, signer))
    alter, said = CHANGES[change]
    alter(values)
    with pytest.raises(UnsoundError, match=said):
        read_envelope(edited(b"{}", **values))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"null", "no JSON object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"payload": NaN}', "not JSON"),
        (b'{"payload": 1, "payload": 2}', "twice"),
        (b" " * (LONGEST + 1), "larger than 16 MiB"),
        (b'{"payload":' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_what_is_no_envelope_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(UnsoundError, match=said):
        read_envelope(content)


def test_a_key_id_vouches_for_nothing(home: Home, signer: PrivateKey) -> None:
    other = key(home, "other")
    signature = json.loads(seal(STATEMENT, other))["signatures"][0]
    claims = edited(
        seal(STATEMENT, other), signatures=[signature | {"keyid": signer.public.key_id}]
    )
    found = read_envelope(claims)
    assert found.key_id == signer.public.key_id
    assert found.signer([signer.public]) is None
    assert found.signer([signer.public, other.public]) == other.public


@pytest.mark.parametrize("payload", [b"[]", b'{"_type": "x"}', b'{"_type": 1, "_type": 2}', b"x"])
def test_a_payload_that_is_no_statement_is_refused_though_it_is_signed(
    signer: PrivateKey, payload: bytes
) -> None:
    signature = base64.b64encode(signer.sign(pae(payload))).decode()
    signed = edited(
        seal(STATEMENT, signer),
        payload=base64.b64encode(payload).decode(),
        signatures=[{"keyid": signer.public.key_id, "sig": signature}],
    )
    found = read_envelope(signed)
    assert found.signer([signer.public]) == signer.public
    with pytest.raises(UnsoundError):
        found.statement()
