"""Signatures of real merges, checked by tools that know nothing of mergeflow."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from merge_core.homes.home import Home
from tasks.signing.keys import make_key_pair
from tests.support.audited import Audited
from tests.support.edited_objects import flip, loosen, sha256
from tests.support.merge_store import clear_away
from tests.support.signed import key, signed_home
from tests.support.tampering_signatures import FILES, STATEMENT, OfSignatures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def signed(audited: Audited, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OfSignatures]:
    place = tmp_path_factory.mktemp("signed")
    yield OfSignatures(signed_home(audited, place))
    clear_away(Home(place))


def verify(
    object_directory: Path, signature: Path, public: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    """`model_signing verify key`, as a user types it."""
    command = Path(sys.executable).with_name("model_signing")
    options = ["--signature", str(signature), "--public_key", str(public), *more]
    line = [str(command), "verify", "key", *options, str(object_directory)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_model_signings_own_command_verifies_the_files_and_finds_each_change(
    signed: OfSignatures, tmp_path: Path
) -> None:
    public = signed.home.home.keys / "release.pub"
    arguments = (signed.home.object, signed.signature(FILES), public)
    assert verify(*arguments).returncode == 0, verify(*arguments).stderr
    make_key_pair(Home(tmp_path), "other")
    by_another = verify(*arguments[:2], tmp_path / "keys" / "other.pub")
    assert by_another.returncode != 0
    other = signed.signature(FILES, signed.other_run)
    assert verify(signed.home.object, other, public).returncode != 0
    loosen(signed.home.object)
    before = flip(signed.weights)
    try:
        changed = verify(*arguments)
    finally:
        signed.weights.write_bytes(before)
    assert changed.returncode != 0
    assert "model.safetensors" in changed.stderr + changed.stdout
    for name, option in (("more.py", ()), (".gitattributes", ("--no-ignore-git-paths",))):
        planted = signed.home.object / name
        planted.write_text("1")
        try:
            assert verify(*arguments, *option).returncode != 0, name
        finally:
            planted.unlink()
    assert verify(*arguments).returncode == 0


def test_securesystemslib_verifies_the_statement(signed: OfSignatures, tmp_path: Path) -> None:
    pem = (signed.home.home.keys / "release.pub").read_bytes()
    judge = SSlibKey.from_crypto(load_pem_public_key(pem), keyid=signed.key_id)
    envelope = Envelope.from_dict(json.loads(signed.signature(STATEMENT).read_bytes()))
    assert list(envelope.verify([judge], 1)) == [signed.key_id]
    envelope.payload = envelope.payload.replace(b"promoted", b"approved")
    with pytest.raises(VerificationError):
        envelope.verify([judge], 1)
    other = key(Home(tmp_path), "other").public
    stranger = SSlibKey.from_crypto(load_pem_public_key(other.pem), keyid=signed.key_id)
    with pytest.raises(VerificationError):
        Envelope.from_dict(json.loads(signed.signature(STATEMENT).read_bytes())).verify(
            [stranger], 1
        )


def test_what_the_page_shows_verifies_the_statement(signed: OfSignatures, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "signing.md").read_text()
    program = page.partition("```python\n")[2].partition("```")[0]
    shutil.copy(signed.home.home.keys / "release.pub", tmp_path)
    shutil.copy(signed.signature(STATEMENT), tmp_path)

    def shown() -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", program]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert json.loads(shown().stdout)["predicate"]["runDetails"]["builder"]["id"]
    shutil.copy(key(Home(tmp_path / "evil")).path.with_suffix(".pub"), tmp_path)
    assert "VerificationError" in shown().stderr


def test_the_types_of_in_toto_and_slsa_take_what_was_signed(signed: OfSignatures) -> None:
    """And its subjects are the files, by a hash that is computed here."""
    envelope = json.loads(signed.signature(STATEMENT).read_bytes())
    parsed = json_format.Parse(base64.b64decode(envelope["payload"]), statement_pb2.Statement())
    Statement.copy_from_pb(parsed).validate()
    predicate = json_format.MessageToDict(parsed.predicate)
    provenance = json_format.ParseDict(predicate, provenance_pb2.Provenance())
    for subject in parsed.subject:
        assert sha256(signed.home.object / subject.name) == subject.digest["sha256"]
    files = {path.name for path in signed.home.object.iterdir()} - {"mergeflow_manifest.json"}
    assert {subject.name for subject in parsed.subject} == files
    made = {each.name: each for each in provenance.run_details.byproducts}
    assert made["decision.json"].digest["sha256"] == sha256(signed.artifact("decision.json"))
    assert provenance.run_details.metadata.invocation_id == f"mlflow-run:{signed.run_id}"
