"""Keys: whose file it has to be, what opens it, and that nothing of it gets out."""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from merge_core.errors import MergeflowError
from merge_core.homes.home import Home
from tasks.processes.secret_variables import without_secrets
from tasks.signing.keys import (
    PASSPHRASE,
    key_file,
    make_key_pair,
    private_key,
    read_private_key,
    read_public_key,
)
from tasks.signing.trust import Trust, trust_key


def secret_lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if "-----" not in line]


def test_a_pair_is_private_and_its_id_is_the_sha256_of_the_public_file(home: Home) -> None:
    made = make_key_pair(home, "release")
    private, public = home.keys / "release.pem", home.keys / "release.pub"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.keys.stat().st_mode) == 0o700
    assert made.key_id == hashlib.sha256(public.read_bytes()).hexdigest()
    key = private_key(home, "release")
    assert key.public == made
    assert made.verifies(key.sign(b"text"), b"text")
    assert not made.verifies(key.sign(b"text"), b"other")
    assert not made.verifies(b"no signature", b"text")


def test_no_umask_opens_a_private_key(home: Home) -> None:
    before = os.umask(0)
    try:
        make_key_pair(home, "release")
    finally:
        os.umask(before)
    assert stat.S_IMODE((home.keys / "release.pem").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_may_read_or_change_is_refused_until_it_is_closed(
    home: Home, mode: int
) -> None:
    make_key_pair(home, "release")
    path = home.keys / "release.pem"
    path.chmod(mode)
    with pytest.raises(MergeflowError, match=f"mode {mode:04o}") as refused:
        private_key(home, "release")
    assert refused.value.mend is not None
    assert f"chmod 600 {path}" in refused.value.mend
    path.chmod(0o600)
    assert private_key(home, "release")


def test_a_key_is_never_overwritten(home: Home) -> None:
    first = make_key_pair(home, "release")
    with pytest.raises(MergeflowError, match="already") as refused:
        make_key_pair(home, "release")
    assert refused.value.mend == "choose another name; a key is never overwritten"
    assert private_key(home, "release").public == first
    assert make_key_pair(home, "release-2").key_id != first.key_id


@pytest.mark.parametrize("name", ["", "../release", "a/b", "-x", "a b", ".hidden", "x" * 90])
def test_a_name_leads_to_no_other_directory(home: Home, name: str) -> None:
    with pytest.raises(MergeflowError, match="cannot be the name"):
        make_key_pair(home, name)
    assert not home.keys.exists()
    make_key_pair(home, "a-b_c.1")


def test_a_passphrase_is_needed_once_there_is_one(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_key_pair(home, "release", "open sesame")
    assert b"ENCRYPTED" in (home.keys / "release.pem").read_bytes()
    for wrong in (None, "open barley"):
        with pytest.raises(MergeflowError, match="passphrase") as refused:
            read_private_key(home.keys / "release.pem", wrong)
        assert refused.value.mend is not None
        assert PASSPHRASE in refused.value.mend
        assert refused.value.__cause__ is None
    monkeypatch.setenv(PASSPHRASE, "open sesame")
    assert private_key(home, "release").public == made
    make_key_pair(home, "other")
    assert private_key(home, "other"), "a key without a passphrase ignores it"


def test_code_of_a_suite_or_a_model_is_not_told_the_passphrase(home: Home) -> None:
    assert without_secrets({PASSPHRASE: "open sesame", "LANG": "C"}, home) == {"LANG": "C"}


def test_no_cache_log_or_message_gets_a_private_key(home: Home) -> None:
    make_key_pair(home, "release")
    path = home.keys / "release.pem"
    key = private_key(home, "release")
    for said in (repr(key), str(key), f"{vars(key)!r:.0}{key!r}"):
        assert not any(line in said for line in secret_lines(path))
    with pytest.raises(TypeError, match="not to be stored"):
        pickle.dumps(key)
    path.write_bytes(path.read_bytes().replace(b"M", b"m"))
    with pytest.raises(MergeflowError) as refused:
        private_key(home, "release")
    assert not any(line in str(refused.value) for line in secret_lines(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no private key"),
        (b"x" * 70_000, "no key file"),
        (b"\xff\xfe", "no private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no private key"),
    ],
)
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(MergeflowError, match=said):
        read_private_key(path)


@pytest.mark.parametrize("kind", ["ed25519", "secp256k1"])
def test_a_key_of_another_kind_is_refused(tmp_path: Path, kind: str) -> None:
    """Model signing's own tools could not check what it signs."""
    key = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else None
    made = key or ec.generate_private_key(ec.SECP256K1())
    private = made.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    path = tmp_path / "x.pem"
    path.write_bytes(private)
    path.chmod(0o600)
    with pytest.raises(MergeflowError, match="another kind"):
        read_private_key(path)
    public = made.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ValueError, match="another kind"):
        read_public_key(public)


def test_a_key_is_found_by_name_or_absolute_path(home: Home, tmp_path: Path) -> None:
    with pytest.raises(MergeflowError, match="no key 'release'") as nothing:
        key_file(home, "release")
    assert nothing.value.mend == "make one with `mergeflow keys new NAME`"
    make_key_pair(home, "release")
    with pytest.raises(MergeflowError, match="no key 'relase'") as mistyped:
        key_file(home, "relase")
    assert mistyped.value.mend == "did you mean 'release'?"
    with pytest.raises(MergeflowError, match="relative path"):
        key_file(home, "./release.pem")
    assert key_file(home, str(home.keys / "release.pem")) == key_file(home, "release")
    with pytest.raises(MergeflowError, match="no such key file"):
        key_file(home, str(tmp_path / "gone.pem"))


def test_a_fifo_in_place_of_a_key_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.pem", 0o600)
    with pytest.raises(MergeflowError, match="no key file"):
        read_private_key(tmp_path / "x.pem")


def test_a_home_trusts_its_keys_and_those_that_were_taken_in(home: Home, tmp_path: Path) -> None:
    own = make_key_pair(home, "release")
    theirs = make_key_pair(Home(tmp_path / "other"), "release")
    file = tmp_path / "other" / "keys" / "release.pub"
    with pytest.raises(MergeflowError, match="another key is called 'release'"):
        trust_key(home, file)
    assert trust_key(home, file, "theirs") == trust_key(home, file, "theirs")
    trusted = Trust.of_home(home)
    assert {key.key_id for key in trusted.keys} == {own.key_id, theirs.key_id}
    assert trusted.problems == ()
    assert Trust.of_files([file]).named


def test_a_public_key_that_was_exchanged_is_named_and_does_not_count(
    home: Home, tmp_path: Path
) -> None:
    make_key_pair(home, "release")
    evil = make_key_pair(Home(tmp_path / "evil"), "x")
    (home.keys / "release.pub").write_bytes(evil.pem)
    (home.keys / "link.pub").symlink_to(tmp_path / "evil" / "keys" / "x.pub")
    (home.keys / "text.pub").write_text("hello")
    trusted = Trust.of_home(home)
    assert trusted.keys == ()
    assert len(trusted.problems) == 3
    assert "release.pub is not the public half of release.pem" in trusted.problems


def test_a_key_that_others_could_have_read_counts_no_more(home: Home) -> None:
    make_key_pair(home, "release")
    make_key_pair(home, "locked", "open sesame")
    (home.keys / "release.pem").chmod(0o644)
    trusted = Trust.of_home(home)
    assert [key.name for key in trusted.keys] == ["locked"]
    assert len(trusted.problems) == 1
    assert "release.pem is not believed: others than its owner" in trusted.problems[0]


def test_a_private_key_is_not_taken_for_a_public_one(home: Home) -> None:
    make_key_pair(home, "release")
    with pytest.raises(MergeflowError, match="it holds a private key") as refused:
        Trust.of_files([home.keys / "release.pem"])
    assert refused.value.mend == "name the file NAME.pub that `mergeflow keys new` made"
    assert Trust.of_files([home.keys / "release.pub"]).keys
    assert not any(line in str(refused.value) for line in secret_lines(home.keys / "release.pem"))
