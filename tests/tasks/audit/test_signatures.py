"""Signed merges: what holds, what cannot be checked, and every kind of tampering by name."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from merge_core.errors import CheckpointError, MergeflowError
from merge_core.homes.home import Home
from tasks.audit.audit import audit_all, audit_version
from tasks.audit.report import AuditReport
from tasks.audit.signing import _Signing, sign_version
from tasks.registry.alias import AliasKeeper
from tasks.registry.client import open_registry
from tasks.signing.envelope import UnsoundError
from tasks.signing.keys import make_key_pair
from tasks.signing.model_signature import read_model_signature
from tasks.signing.trust import Trust
from tests.support.audited import Audited
from tests.support.edited_objects import flip
from tests.support.merge_store import clear_away
from tests.support.signed import key, signed_home
from tests.support.tampering import Tamperer, relocked
from tests.support.tampering_pages import unlisted
from tests.support.tampering_signatures import FILES, KINDS, STATEMENT, OfSignatures

pytestmark = pytest.mark.slow
URI = "models:/model/2"


@pytest.fixture(scope="module")
def signed(audited: Audited, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    """A home whose two merges are signed, for tests that only look."""
    place = tmp_path_factory.mktemp("signed")
    yield signed_home(audited, place)
    clear_away(Home(place))


@pytest.fixture
def home(signed: Audited, tmp_path: Path) -> Iterator[Audited]:
    """A copy to tamper with."""
    copy = signed.copied(tmp_path)
    with open_registry(copy.registry):
        pass
    yield copy
    clear_away(Home(tmp_path))


@pytest.fixture
def unsigned(audited: Audited, tmp_path: Path) -> Iterator[Audited]:
    """A copy of a home in which nothing is signed."""
    copy = audited.copied(tmp_path / "unsigned")
    with open_registry(copy.registry):
        pass
    yield copy
    clear_away(Home(tmp_path))


def said(report: AuditReport, outcome: str) -> list[str]:
    return [
        answer.what
        for answer in report.answers
        if answer.check == "signature" and answer.outcome == outcome
    ]


def test_what_is_signed_holds(signed: Audited) -> None:
    reports = list(audit_all(signed.home, signed.registry))
    assert [report.of("fails") + report.of("unknown") for report in reports] == [[], [], []]
    [holds] = said(reports[1], "holds")
    assert holds.startswith(f"signed by release ({key(signed.home).public.key_id[:12]}): 9 files")
    named = Trust.of_files([signed.home.keys / "release.pub"])
    assert audit_version(signed.home, URI, signed.registry, trust=named).holds


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_tampering_with_a_signed_merge_is_named(home: Audited, kind: str) -> None:
    tamper, words = KINDS[kind]
    tamper(OfSignatures(home))
    failing = said(audit_version(home.home, URI, home.registry), "fails")
    assert any(words in each for each in failing), failing


def test_an_unknown_key_cannot_be_checked_and_is_none_that_was_named(
    home: Audited, tmp_path: Path
) -> None:
    """Also where the home has the key: what was named counts alone."""
    other = make_key_pair(Home(tmp_path / "other"), "other")
    shutil.rmtree(home.home.keys)
    report = audit_version(home.home, URI, home.registry)
    assert report.holds
    [unknown] = said(report, "unknown")
    assert "not among the trusted keys" in unknown
    named = Trust.of_files([tmp_path / "other" / "keys" / "other.pub"])
    failing = said(audit_version(home.home, URI, home.registry, trust=named), "fails")
    assert failing == [f"it is not signed by {other.label}, the key that was named"]


def test_a_key_that_has_nothing_to_do_with_a_signature_says_nothing_of_it(home: Audited) -> None:
    (home.home.keys / "other.pub").write_text("hello")
    reports = list(audit_all(home.home, home.registry))
    assert [report.of("fails") + report.of("unknown") for report in reports] == [[], [], []]


def test_who_names_a_key_gets_no_base_for_a_merge(home: Audited) -> None:
    """A merge that calls itself a base has no record to check."""
    api = OfSignatures(home).api
    api.delete_model_version_tag("model", "2", "mergeflow.run_id")
    api.set_model_version_tag("model", "2", "mergeflow.role", "base")
    named = Trust.of_files([home.home.keys / "release.pub"])
    failing = said(audit_version(home.home, URI, home.registry, trust=named), "fails")
    assert len(failing) == 1
    assert "it is not signed by release" in failing[0]
    reports = list(audit_all(home.home, home.registry, trust=named))
    assert [[each.check for each in report.of("fails")] for report in reports] == [
        [],
        ["run", "signature"],
        [],
    ]
    assert [len(said(report, "unknown")) for report in reports] == [1, 0, 0], "a base is everywhere"
    failing = said(audit_version(home.home, "models:/model/1", home.registry, trust=named), "fails")
    assert failing == [
        "it is registered as no merge of mergeflow's, and no key vouches for anything else"
    ]


def test_unsigned_is_said_and_fails_where_a_key_was_named(
    unsigned: Audited, tmp_path: Path
) -> None:
    report = audit_version(unsigned.home, URI, unsigned.registry)
    assert report.holds
    assert said(report, "holds") == ["unsigned: nobody vouches for this record"]
    key(unsigned.home)
    named = Trust.of_files([unsigned.home.keys / "release.pub"])
    failing = said(audit_version(unsigned.home, URI, unsigned.registry, trust=named), "fails")
    assert len(failing) == 1
    assert "it is not signed by release" in failing[0]


def test_a_pipeline_that_asks_for_a_signature_is_not_content_without(unsigned: Audited) -> None:
    asks = {"sign": "release"}
    at = Tamperer(unsigned)
    relocked(at, lambda value: value["pipeline"].update(register=asks))
    unlisted(at)  # its list of files would show that the lock was edited
    failing = said(audit_version(unsigned.home, URI, unsigned.registry), "fails")
    assert failing == ["unsigned, and its pipeline says `register: {sign: release}`"]
    key(unsigned.home)
    sign_version(unsigned.home, URI, unsigned.registry, "release")
    assert audit_version(unsigned.home, URI, unsigned.registry).holds


def test_a_second_key_signs_beside_the_first(home: Audited) -> None:
    make_key_pair(home.home, "second", "open sesame")
    with pytest.raises(MergeflowError, match="has a passphrase"):
        sign_version(home.home, URI, home.registry, "second")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MERGEFLOW_KEY_PASSPHRASE", "open sesame")
        sign_version(home.home, URI, home.registry, "second")
    report = audit_version(home.home, URI, home.registry)
    assert report.of("fails") == []
    assert [each.split(" (")[0] for each in said(report, "holds")] == [
        f"signed by {key_.name}"
        for key_ in sorted(Trust.of_home(home.home).keys, key=lambda each: each.key_id)
    ]


def test_signing_again_writes_nothing(home: Audited) -> None:
    before = _everything(home)
    again = sign_version(home.home, URI, home.registry, "release")
    assert again.already
    assert _everything(home) == before


def test_a_copy_beside_the_object_that_is_lost_is_written_again(home: Audited) -> None:
    at = OfSignatures(home)
    before = {name: at.signature(name).read_bytes() for name in (FILES, STATEMENT)}
    shutil.rmtree(home.home.signatures)
    assert audit_version(home.home, URI, home.registry).holds
    sign_version(home.home, URI, home.registry, "release")
    for name, content in before.items():
        assert at.beside(name).read_bytes() == at.signature(name).read_bytes() == content
    assert audit_version(home.home, URI, home.registry).holds


def test_a_merge_of_before_locks_were_kept_is_signed_by_what_it_has(unsigned: Audited) -> None:
    at = Tamperer(unsigned)
    at.artifact("lock.json").unlink()
    unlisted(at)
    at.api.delete_tag(at.run_id, "mergeflow.lock")
    key(unsigned.home)
    sign_version(unsigned.home, URI, unsigned.registry, "release")
    report = audit_version(unsigned.home, URI, unsigned.registry)
    assert report.of("fails") == []
    assert len(said(report, "holds")) == 1


def test_no_bit_of_the_signature_over_the_files_can_be_changed(signed: Audited) -> None:
    """Each byte by turns; what is still read is not signed by the key, or names another one."""
    content, chance = OfSignatures(signed).signature(FILES).read_bytes(), random.Random(0)
    ours = key(signed.home).public
    assert read_model_signature(content).signer([ours]) == ours
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << chance.randrange(8)
        try:
            found = read_model_signature(bytes(changed))
        except UnsoundError:
            continue
        assert found.signer([ours]) is None or found.key_id != ours.key_id, place


@pytest.mark.parametrize("moment", ["the run", "the tag", "the history"])
def test_a_signing_that_was_interrupted_is_completed(
    unsigned: Audited, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Stopped where it writes to the run's files, to its tags, to the history."""
    key(unsigned.home)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        if moment == "the run":
            patch.setattr("tasks.audit.signing.log_files", killed)
        elif moment == "the tag":
            patch.setattr("mlflow.MlflowClient.set_tag", killed)
        else:
            patch.setattr(AliasKeeper, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            sign_version(unsigned.home, URI, unsigned.registry, "release")
    done = sign_version(unsigned.home, URI, unsigned.registry, "release")
    report = audit_version(unsigned.home, URI, unsigned.registry)
    assert report.of("fails") + report.of("unknown") == []
    assert sign_version(unsigned.home, URI, unsigned.registry, "release").already
    assert Path(done.statement).stat().st_mode & 0o777 == 0o600


def test_of_two_who_sign_at_once_one_signs(
    unsigned: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other signs after the first has looked, and before it writes."""
    key(unsigned.home)
    prepare = _Signing.prepare
    done = []

    def overtaken(signing: _Signing) -> None:
        prepare(signing)
        monkeypatch.setattr(_Signing, "prepare", prepare)
        if not done:
            done.append(sign_version(unsigned.home, URI, unsigned.registry, "release"))

    monkeypatch.setattr(_Signing, "prepare", overtaken)
    second = sign_version(unsigned.home, URI, unsigned.registry, "release")
    assert [done[0].already, second.already] == [False, True]
    written = [each.read_text() for each in unsigned.home.history.glob("*.jsonl")]
    assert sum(text.count('"signed"') for text in written) == 1
    report = audit_version(unsigned.home, URI, unsigned.registry)
    assert report.of("fails") + report.of("unknown") == []


def test_what_does_not_hold_is_not_signed(unsigned: Audited) -> None:
    key(unsigned.home)
    flip(unsigned.object / "model.safetensors")
    with pytest.raises(CheckpointError, match="not what its record says") as refused:
        sign_version(unsigned.home, URI, unsigned.registry, "release")
    assert any("model.safetensors" in detail for detail in refused.value.details)
    assert not unsigned.home.signatures.exists()
    assert not audit_version(unsigned.home, URI, unsigned.registry).holds
    flip(unsigned.object / "model.safetensors")
    assert not sign_version(unsigned.home, URI, unsigned.registry, "release").already


def test_a_signature_that_does_not_hold_any_more_is_not_hidden_by_another(home: Audited) -> None:
    at = OfSignatures(home)
    at.swap(FILES, STATEMENT)
    with pytest.raises(CheckpointError, match="does not hold any more"):
        sign_version(home.home, URI, home.registry, "release")
    key(home.home, "second")
    assert not sign_version(home.home, URI, home.registry, "second").already


def test_a_base_has_nothing_to_sign(unsigned: Audited) -> None:
    key(unsigned.home)
    with pytest.raises(MergeflowError, match="no merge of mergeflow's"):
        sign_version(unsigned.home, "models:/model/1", unsigned.registry, "release")
    assert sign_version(unsigned.home, "models:/model/2", unsigned.registry, "release")


def test_a_version_is_signed_where_its_files_are(unsigned: Audited, tmp_path: Path) -> None:
    elsewhere = Home(tmp_path / "elsewhere")
    key(elsewhere)
    key(unsigned.home)
    moved = unsigned.home.path / "moved"
    unsigned.home.objects.rename(moved)
    with pytest.raises(CheckpointError, match="are not here"):
        sign_version(elsewhere, URI, unsigned.registry, "release")
    moved.rename(unsigned.home.objects)
    assert sign_version(unsigned.home, URI, unsigned.registry, "release")


def test_elsewhere_the_record_is_checked_and_the_files_are_not(
    home: Audited, tmp_path: Path
) -> None:
    """By whoever has the registry and a public key, and neither the home nor its store."""
    named = Trust.of_files([home.home.keys / "release.pub"])
    shutil.rmtree(home.home.objects)
    report = audit_version(Home(tmp_path / "elsewhere"), URI, home.registry, trust=named)
    assert report.of("fails") == []
    [holds] = said(report, "holds")
    assert "the files themselves are not here" in holds


def _everything(home: Audited) -> dict[str, bytes]:
    """Files of signatures and history, and the run's."""
    at = OfSignatures(home)
    places = (home.home.signatures, home.home.history, at.artifact("."))
    return {
        str(path): path.read_bytes()
        for place in places
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }
