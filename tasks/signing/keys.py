"""Keys to sign with: elliptic curves, PEM, `keys/NAME.pem` in the home or a file that is named.

A private key is its owner's alone, is never printed, and is refused where others could have read or
changed it. A key is known by the sha256 of its public half's PEM, which `sha256sum NAME.pub` gives.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from merge_core.errors import MergeflowError, OutputError, did_you_mean
from merge_core.files.private import PRIVATE_FILE, make_private_directory, write_private
from merge_core.homes.home import Home
from merge_core.homes.variables import place_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

PASSPHRASE = "MERGEFLOW_KEY_PASSPHRASE"
"""Environment variable with the passphrase of a private key."""
PRIVATE, PUBLIC = ".pem", ".pub"
LONGEST_KEY = 64 << 10
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
"""Those that OpenSSF's model signing takes, and the hash that it uses with each."""
KINDS = "P-256, P-384 or P-521"
_LONGEST_PASSPHRASE = 1023
"""Bytes that OpenSSL takes."""
_MAKE = "make one with `mergeflow keys new NAME`"


class LockedKeyError(MergeflowError):
    """A key that its passphrase does not open, or that is asked for without one."""


@dataclass(frozen=True)
class PublicKey:
    """The public half of a key."""

    pem: bytes
    """As this library writes it, however the file was written."""
    name: str = ""
    """What a person calls it; no proof of anything."""

    @property
    def key_id(self) -> str:
        """sha256 of the PEM."""
        return hashlib.sha256(self.pem).hexdigest()

    @property
    def label(self) -> str:
        """For people: its name and the beginning of its id."""
        return f"{self.name} ({self.key_id[:12]})" if self.name else self.key_id[:12]

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether a signature is this key's, over these bytes."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        key = load_pem_public_key(self.pem)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        try:
            key.verify(signature, data, _algorithm(key))
        except InvalidSignature:
            return False
        return True


class PrivateKey:
    """A key to sign with. Nothing prints it, and no cache can keep it."""

    def __init__(
        self,
        key: ec.EllipticCurvePrivateKey,
        path: Path,
        passphrase: bytes | None,
    ) -> None:
        self._key = key
        self.path = path
        self.passphrase = passphrase
        self.public = _public(key.public_key(), path.stem)

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.label})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not to be stored")

    def sign(self, data: bytes) -> bytes:
        """A signature over these bytes: ECDSA with the curve's hash, in DER."""
        return self._key.sign(data, _algorithm(self._key.public_key()))


def make_key_pair(home: Home, name: str, passphrase: str | None = None) -> PublicKey:
    """Make a P-256 key: `keys/NAME.pem`, mode 0600, and `keys/NAME.pub` beside it.

    Args:
        passphrase: encrypts the private half.

    Raises:
        MergeflowError: the name cannot be one, or is taken.
        OutputError: the files cannot be written.
    """
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric import ec

    private, public = free_places(home, name)
    encryption: pem.KeySerializationEncryption = pem.NoEncryption()
    if passphrase:
        encryption = pem.BestAvailableEncryption(_passphrase_bytes(passphrase))
    key = ec.generate_private_key(ec.SECP256R1())
    content = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, encryption)
    made = _public(key.public_key(), name)
    try:
        make_private_directory(home.keys)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.fdopen(os.open(private, flags, PRIVATE_FILE), "wb")
        try:
            with file:
                os.fchmod(file.fileno(), PRIVATE_FILE)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            write_private(public, made.pem)
        except BaseException:  # half a pair would have the name for ever
            private.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(
            f"the key cannot be written: {error.strerror}",
            where=str(home.keys),
            mend="see that you may write there and that there is room, then run it again",
        ) from None
    return made


def free_places(home: Home, name: str) -> tuple[Path, Path]:
    """The files that both halves of a new key will be.

    Raises:
        MergeflowError: the name cannot be one, or is taken.
    """
    check_name(name)
    private, public = home.keys / f"{name}{PRIVATE}", home.keys / f"{name}{PUBLIC}"
    for path in (private, public):
        if os.path.lexists(path):
            raise MergeflowError(
                f"there is a key '{name}' already",
                where=str(path),
                mend="choose another name; a key is never overwritten",
            )
    return private, public


def key_file(home: Home, named: str) -> Path:
    """The file of a private key: of `keys new` by its name, or an absolute path.

    Raises:
        MergeflowError: there is none.
    """
    if "/" in named:
        path = place_of(named, home)
        if not path.is_absolute():
            raise MergeflowError(
                "a relative path depends on where a run is started",
                where=f"key {named}",
                mend="write the absolute path of the key file, or the name of one of `keys list`",
            )
        if not os.path.lexists(path):
            raise MergeflowError("there is no such key file", where=named, mend=_MAKE)
        return path
    path = home.keys / f"{named}{PRIVATE}"
    if not os.path.lexists(path):
        known = private_keys(home)
        mend = did_you_mean(named, known) if known else _MAKE
        raise MergeflowError(f"there is no key '{named}'", where=str(home.keys), mend=mend)
    return path


def private_keys(home: Home) -> list[str]:
    """Names of the private keys of a home."""
    if not home.keys.is_dir():
        return []
    return sorted(path.stem for path in home.keys.iterdir() if path.suffix == PRIVATE)


def private_key(home: Home, named: str) -> PrivateKey:
    """The key of this name or path, with the passphrase of the environment.

    Raises:
        MergeflowError: there is none, others may read it, or it cannot be used.
    """
    return read_private_key(key_file(home, named), os.environ.get(PASSPHRASE))


def read_private_key(path: Path, passphrase: str | None = None) -> PrivateKey:
    """A private key from its file.

    Raises:
        MergeflowError: the file is not its user's alone, or holds no such key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _private_content(path)
    secret = _passphrase_bytes(passphrase) if passphrase and b"ENCRYPTED" in content else None
    try:
        key = load_pem_private_key(content, secret)
    except TypeError:
        raise _locked(path, "this key has a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        if secret is not None:
            raise _locked(path, "the passphrase does not open this key") from None
        raise _no_key(path, "this is no private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise _no_key(path, f"this key is of another kind than can be used here: {KINDS}")
    return PrivateKey(key, path, secret)


def read_public_key(content: bytes, name: str = "") -> PublicKey:
    """A public key from PEM.

    Raises:
        ValueError: it is none, or of a kind that is not used here; the text says which.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE" in content:
        raise ValueError("it holds a private key")
    if content.count(b"-----BEGIN ") > 1:  # programs would take one or the other
        raise ValueError("it holds more than one key")
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("it is no public key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise ValueError(f"it is a key of another kind than can be used here: {KINDS}")
    return _public(key, name)


def check_name(name: str) -> None:
    """Refuse a name that no key's file can have.

    Raises:
        MergeflowError: it is one.
    """
    if not _NAME.fullmatch(name):
        raise MergeflowError(
            "this cannot be the name of a key",
            where=name,
            mend="use letters, digits, dot, dash and underscore, the first a letter or a digit",
        )


def _private_content(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _no_key(path, f"the key cannot be read: {error.strerror}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > LONGEST_KEY:
        os.close(descriptor)  # of a directory Python makes no file
        raise _no_key(path, "this is no key file")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_uid not in (os.geteuid(), 0):
            raise MergeflowError(
                "this key belongs to another user, who can read and change it",
                where=str(path),
                mend="use a key file of your own",
            )
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise MergeflowError(
                f"others than its owner may read or change this key (mode {mode:04o})",
                where=str(path),
                mend=f"chmod 600 {shlex.quote(str(path))}, and make another key if somebody has"
                " read it",
            )
        return file.read(LONGEST_KEY)


def _passphrase_bytes(passphrase: str) -> bytes:
    content = passphrase.encode("utf-8", "surrogateescape")
    if len(content) > _LONGEST_PASSPHRASE:
        raise MergeflowError(
            f"a passphrase has at most {_LONGEST_PASSPHRASE:,} bytes, and this one has"
            f" {len(content):,}",
            where=PASSPHRASE,
            mend=f"take a shorter one; {PASSPHRASE} holds the passphrase, not a file's name",
        )
    return content


def _algorithm(key: ec.EllipticCurvePublicKey) -> ec.ECDSA:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA(getattr(hashes, _CURVES[key.curve.name])())


def _public(key: ec.EllipticCurvePublicKey, name: str) -> PublicKey:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return PublicKey(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), name)


def _locked(path: Path, what: str) -> LockedKeyError:
    return LockedKeyError(
        what, where=str(path), mend=f"set {PASSPHRASE} to the passphrase that it was made with"
    )


def _no_key(path: Path, what: str) -> MergeflowError:
    return MergeflowError(what, where=str(path), mend=_MAKE)
