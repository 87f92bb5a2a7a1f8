"""The signature over a checkpoint's set of files: OpenSSF model signing, as `model.sig`.

Its own library makes it. It is read here, so that an audit needs no more than MLflow brings, and
more strictly: files that are left out, links, and more than one signature are refused.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merge_core.errors import MergeflowError, StepError, one_line
from tasks.signing.envelope import Envelope, UnsoundError, envelope_of, exactly, parsed
from tasks.signing.keys import PrivateKey

NAME = "model.sig"
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PREDICATE = "https://model_signing/signature/v1.0"
_SERIALIZATION = {"allow_symlinks": False, "hash_type": "sha256", "method": "files"}
_SHA256 = re.compile(r"[0-9a-f]{64}")


def require_signing() -> None:
    """See that the library that signs is there, without the seconds that its import takes.

    Raises:
        MergeflowError: it is not.
    """
    for name in ("model_signing", "OpenSSL"):
        if importlib.util.find_spec(name) is None:
            raise _not_installed(name)


def sign_files(directory: Path, key: PrivateKey) -> bytes:
    """Sign every file below a directory. Reads them all.

    Raises:
        MergeflowError: the library is not installed.
        StepError: it cannot sign them, or something else came out than was asked for.
    """
    try:
        from model_signing import hashing, signing
    except ImportError as error:
        raise _not_installed(error.name or "model_signing") from None
    hashed = hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)
    # The library hands the passphrase on as it is, to where bytes are wanted.
    passphrase: Any = key.passphrase
    with tempfile.TemporaryDirectory(prefix="mergeflow-") as scratch:
        made = Path(scratch) / NAME
        try:
            config = signing.Config().use_elliptic_key_signer(
                private_key=key.path, password=passphrase
            )
            config.set_hashing_config(hashed).sign(directory, made)
        except (ValueError, OSError) as error:
            raise StepError(
                f"the files cannot be signed: {one_line(error)}", where=str(directory)
            ) from None
        content = made.read_bytes()
    if read_model_signature(content).signer([key.public]) is None:
        raise StepError(
            "the key file was changed while it was used",
            where=str(key.path),
            mend="find out who writes there, and run the same command again",
        )
    return content


def read_model_signature(content: bytes) -> Envelope:
    """The envelope in a `model.sig`, a Sigstore bundle with a public key.

    Raises:
        UnsoundError: it is none.
    """
    bundle = parsed(content, "it")
    exactly(bundle, {"mediaType", "verificationMaterial", "dsseEnvelope"}, "the bundle")
    if bundle["mediaType"] != _BUNDLE:
        raise UnsoundError("it is no Sigstore bundle of version 0.3")
    material = bundle["verificationMaterial"]
    exactly(material, {"publicKey", "tlogEntries"}, "the bundle's key")
    exactly(material["publicKey"], {"hint"}, "the bundle's key")
    if material["tlogEntries"] != [] or not isinstance(material["publicKey"]["hint"], str):
        raise UnsoundError("it names no local key")
    found = envelope_of(bundle["dsseEnvelope"])
    if found.key_id:
        raise UnsoundError("its key has two ids")
    return Envelope(found.payload, found.signature, material["publicKey"]["hint"])


def signed_files(statement: Mapping[str, Any]) -> dict[str, str]:
    """sha256 by name of the files that were signed.

    Raises:
        UnsoundError: the statement is no model signature, leaves files out, or contradicts itself.
    """
    if statement.get("predicateType") != _PREDICATE:
        raise UnsoundError("it is not the signature of a model")
    predicate = statement.get("predicate")
    exactly(predicate, {"serialization", "resources"}, "what was signed")
    assert isinstance(predicate, dict)
    if predicate["serialization"] != _SERIALIZATION:
        raise UnsoundError("it leaves files out, or has hashed them otherwise")
    found: dict[str, str] = {}
    together = hashlib.sha256()
    for resource in predicate["resources"] if isinstance(predicate["resources"], list) else ():
        exactly(resource, {"name", "algorithm", "digest"}, "a file")
        name, digest = resource["name"], resource["digest"]
        if resource["algorithm"] != "sha256" or not _is_digest(digest) or name in found:
            raise UnsoundError("a file is listed twice, or without its sha256")
        found[str(name)] = digest
        together.update(bytes.fromhex(digest))
    subject = statement.get("subject")
    if not isinstance(subject, list) or len(subject) != 1:
        raise UnsoundError("it is of no model, or of several")
    exactly(subject[0], {"name", "digest"}, "the model")
    if not found or subject[0]["digest"] != {"sha256": together.hexdigest()}:
        raise UnsoundError("its files do not give the digest of the whole")
    return found


def _not_installed(name: str) -> MergeflowError:
    return MergeflowError(
        f"the packages that sign are not installed: {name} is missing",
        where="signing",
        mend="pip install 'mergeflow[signing]'",
    )


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None
