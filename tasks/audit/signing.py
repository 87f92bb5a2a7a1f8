"""Sign a version: audit it, and vouch with a key for its files and for what its record says.

What does not hold is not signed. Both files go beside the object in the home, to the run in MLflow,
and into the model's history, in this order; a signing that was interrupted is completed.
"""

from __future__ import annotations

import contextlib
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from merge_core.errors import CheckpointError, MergeflowError, OutputError, StepError
from merge_core.files.own_files import NotOursError, read_own
from merge_core.files.private import write_private
from merge_core.files.sha256sums import MAX_SUMS_BYTES, SUMS_NAME, read_sums
from merge_core.files.untrusted import read_plain
from merge_core.homes.home import Home
from merge_core.progress import Progress
from merge_core.records import Record
from tasks.audit.audit import OF_ANY, OF_MERGES, looked_at
from tasks.audit.evidence import Evidence
from tasks.audit.facts import facts_of
from tasks.audit.report import Answers
from tasks.audit.signature import check
from tasks.audit.signatures import ARTIFACTS, FILES, place_of, signatures_of, signed_lines
from tasks.registry.addresses import find_version
from tasks.registry.alias import AliasKeeper
from tasks.registry.client import TAG, open_registry
from tasks.registry.history import History
from tasks.registry.run_files import log_files
from tasks.signing import model_signature, statement
from tasks.signing.envelope import LONGEST, UnsoundError, read_envelope, seal
from tasks.signing.keys import PrivateKey, private_key
from tasks.signing.statement import Facts, SeenHistory, statement_of
from tasks.signing.trust import Trust

if TYPE_CHECKING:
    from mlflow.entities import Run

_BEFORE = {
    name: look
    for name, look in (OF_ANY | OF_MERGES).items()
    if name not in ("parents", "signature")
}
"""What has to hold. Sources may have changed since, and the alias is another matter."""


class SignedVersion(Record):
    """What was signed, by which key, and where the signatures are."""

    model_uri: str
    digest: str
    run_id: str
    key: str
    """Name of the key, as its file is called."""
    key_id: str
    signature: str
    """The file with the signature over the checkpoint's files, in this home."""
    statement: str
    already: bool = False
    """Nothing was written: this key had signed the same before."""


def sign_version(
    home: Home,
    model_uri: str,
    tracking_uri: str,
    key_named: str,
    progress: Progress | None = None,
) -> SignedVersion:
    """Sign the version of an address.

    Args:
        key_named: the name of a private key of the home, or the path of one.

    Raises:
        MergeflowError: no such version or key, or the packages that sign are not installed.
        CheckpointError: the version is not what its record says.
        StepError: MLflow refused.
    """
    model_signature.require_signing()
    key = private_key(home, key_named)
    while True:
        with tempfile.TemporaryDirectory(prefix="mergeflow-") as scratch:
            with open_registry(tracking_uri) as registry:
                version = find_version(registry, model_uri)
                trust = Trust((key.public,), named=True)
                evidence = Evidence(registry, home, version, Path(scratch), progress, trust)
                signing = _Signing(evidence, key)
                signing.prepare()
            if not signing.lacks_something:
                return signing.done()
            # Others wait meanwhile: all that takes long is done.
            with (
                contextlib.suppress(_OvertakenError),
                open_registry(tracking_uri, writing=True) as registry,
            ):
                evidence.registry = registry
                signing.write()
                return signing.done()


class _OvertakenError(Exception):
    """Another process signed this version with this key meanwhile: its signature stays."""


class _Signing:
    """One version that is being signed by one key."""

    def __init__(self, evidence: Evidence, key: PrivateKey) -> None:
        self._evidence = evidence
        self._key = key
        self._of = key.public.key_id
        self._run, self._facts = _checked(evidence)
        self._directory = evidence.object_directory
        self._object = self._facts.manifest.object_id
        self._whole = False
        self._statement: bytes | None = None
        self._over_files = b""
        self._found = self._written()
        self.lacks_something = True

    def _written(self) -> list[bool]:
        return [self._place(name).exists() for name in FILES]

    def prepare(self) -> None:
        """See what this key has signed before, and sign the files."""
        before = [each for each in signatures_of(self._evidence) if each.key_id == self._of]
        self._whole = bool(before) and all(file.content for file in before[0].files.values())
        if self._whole:
            self._refuse_unsound()
            files = before[0].files
            self._over_files = files[model_signature.NAME].content or b""
            self._statement = files[statement.NAME].content
        else:
            assert self._directory is not None
            self._over_files = self._signature(self._directory)
        self.lacks_something = not (self._whole and self._is_noted())

    def done(self) -> SignedVersion:
        """What is signed now."""
        places = [str(self._place(name)) for name in FILES]
        return SignedVersion(
            model_uri=self._evidence.address,
            digest=str(self._evidence.digest),
            run_id=self._run.info.run_id,
            key=self._key.public.name,
            key_id=self._of,
            signature=places[0],
            statement=places[1],
            already=self._whole,
        )

    def _refuse_unsound(self) -> None:
        """What this key has signed has to be as it was: a second signature would hide that."""
        given = Answers("signature")
        check(self._evidence, given)
        wrong = [answer.what for answer in given.given if answer.outcome == "fails"]
        if wrong:
            raise CheckpointError(
                "this key has signed it before, and that signature does not hold any more",
                where=self._evidence.address,
                mend="find out who changed it; another key can sign it as it is now",
                details=wrong[:5],
            )

    def _is_noted(self) -> bool:
        registry, name = self._evidence.registry, self._evidence.version.name
        tags = dict(registry.client.get_registered_model(name).tags)
        lines = signed_lines(self._evidence, tags)
        noted = self._run.data.tags.get(TAG + "signed_by", "").split()
        here = all(self._place(each).exists() for each in FILES)
        return here and self._of in noted and any(line.key == self._of for line in lines)

    def write(self) -> None:
        """Sign the statement, and write what is missing."""
        registry, run_id = self._evidence.registry, self._run.info.run_id

        def make(history: History) -> str:
            if not self._whole and self._written() != self._found:
                raise _OvertakenError
            envelope = self._statement or self._sealed(history)
            contents = dict(zip(FILES, (self._over_files, envelope), strict=True))
            for name, content in contents.items():
                self._write(name, content)
            directory = f"{ARTIFACTS}/{self._of}"
            log_files(registry, run_id, {f"{directory}/{n}": c for n, c in contents.items()})
            noted = self._run.data.tags.get(TAG + "signed_by", "").split()
            ids = " ".join(dict.fromkeys((*noted, self._of)))
            registry.client.set_tag(run_id, TAG + "signed_by", ids)
            return sha256(envelope).hexdigest()

        AliasKeeper(registry, self._evidence.version.name, self._evidence.home).sign(
            make,
            version=str(self._evidence.version.version),
            run_id=run_id,
            key=self._of,
            why=f"by key {self._key.public.label}",
        )

    def _sealed(self, history: History) -> bytes:
        head = history.head
        seen = SeenHistory(history.chain, head) if head else None
        envelope = seal(statement_of(self._facts, seen), self._key)
        try:
            read_envelope(envelope).statement()
        except UnsoundError as error:
            raise StepError(
                f"what the record says cannot be stated: {error}", where=self._evidence.address
            ) from None
        return envelope

    def _signature(self, directory: Path) -> bytes:
        """The signature over the files: the one beside the object, where it still holds."""
        try:
            content = read_own(self._place(model_signature.NAME), LONGEST)
            envelope = model_signature.read_model_signature(content)
            if envelope.signer([self._key.public]) is not None:
                files = model_signature.signed_files(envelope.statement())
                if files == _listed(directory):
                    return content
        except (FileNotFoundError, NotOursError, UnsoundError):
            pass
        content = model_signature.sign_files(directory, self._key)
        made = model_signature.read_model_signature(content).statement()
        if model_signature.signed_files(made) != _listed(directory):
            raise StepError(
                "files of the checkpoint changed while they were signed",
                where=str(directory),
                mend="find out who writes to the store, and run the same command again",
            )
        return content

    def _place(self, name: str) -> Path:
        return place_of(self._evidence.home, self._object, self._of, self._run.info.run_id, name)

    def _write(self, name: str, content: bytes) -> None:
        path = self._place(name)
        try:
            write_private(path, content)
        except OSError as error:
            raise OutputError(
                f"the signature cannot be written: {error.strerror}",
                where=str(path),
                mend="see that you may write there and that there is room, then run it again",
            ) from error


def _checked(evidence: Evidence) -> tuple[Run, Facts]:
    """The run of a version whose record holds, on a machine that has its files, and its facts."""
    if not evidence.is_merge:
        raise MergeflowError(
            "this version is no merge of mergeflow's, so there is no record of how it was made",
            where=evidence.address,
            mend="sign a version that a pipeline or an average made",
        )
    report = looked_at(evidence, _BEFORE)
    wrong = [f"{answer.check}: {answer.what}" for answer in report.of("fails")]
    if wrong:
        raise CheckpointError(
            "this version is not what its record says, and is not signed",
            where=evidence.address,
            mend=f"look at `mergeflow audit {evidence.address}`; the run that made it, started"
            " again, mends what it can",
            details=wrong[:5],
        )
    facts = facts_of(evidence)
    if evidence.object_directory is None or facts is None:
        raise CheckpointError(
            "its files or its record are not here, so nobody can vouch for them",
            where=evidence.address,
            mend="sign it on the machine where its files are",
        )
    assert evidence.run is not None
    return evidence.run, facts


def _listed(directory: Path) -> dict[str, str]:
    """sha256 by name of each file of an object, by its own list, which its id vouches for."""
    sums = read_plain(directory / SUMS_NAME, MAX_SUMS_BYTES)
    return read_sums(sums) | {SUMS_NAME: sha256(sums).hexdigest()}
