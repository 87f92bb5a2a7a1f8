"""Kinds of tampering with a merge that is signed: what no other record tells, and what a signature
has to tell as well."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from merge_core.homes.home import Home
from tasks.registry.history import HEAD_TAG
from tasks.signing.envelope import seal
from tasks.signing.keys import make_key_pair, private_key
from tests.support.audited import Audited
from tests.support.edited_objects import flip
from tests.support.signed import edited
from tests.support.tampering import Tamperer, relocked
from tests.support.tampering_history import rewritten
from tests.support.tampering_pages import relisted

FILES, STATEMENT = "model.sig", "provenance.intoto.jsonl"


class OfSignatures(Tamperer):
    """Who may write to the home and to MLflow, and has not the key."""

    def __init__(self, home: Audited) -> None:
        super().__init__(home)
        self.key_id = self.run.data.tags["mergeflow.signed_by"]
        self.other_run = self.api.get_model_version("model", "3").tags["mergeflow.run_id"]

    def signature(self, name: str, run_id: str | None = None) -> Path:
        """A file of the signature, with the run in MLflow."""
        return self.artifact(f"signatures/{self.key_id}/{name}", run_id)

    def beside(self, name: str) -> Path:
        """The same file, beside the object."""
        place = self.home.home.signatures / self.home.first_object / self.key_id
        return place / (name if name == FILES else f"{self.run_id}.{name}")

    def swap(self, *names: str) -> None:
        """Put what belongs to version 3 in the place of what belongs to version 2."""
        for name in names:
            shutil.copyfile(self.signature(name, self.other_run), self.signature(name))

    def evil(self) -> Home:
        """A home of somebody else's, with a key of the same name."""
        home = Home(self.home.home.path.parent / "evil")
        if not home.keys.is_dir():
            make_key_pair(home, "release")
        return home

    def statement(self) -> dict[str, Any]:
        """What was stated."""
        envelope = json.loads(self.signature(STATEMENT).read_text())
        found: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
        return found

    def replace_statement(self, content: bytes) -> None:
        """In both places."""
        self.signature(STATEMENT).write_bytes(content)
        self.beside(STATEMENT).write_bytes(content)

    def history(self, change: Callable[[list[dict[str, Any]]], object]) -> None:
        """Write another history, whose lines follow each other and whose head the registry has."""
        rewritten(self, change)

    def forget(self) -> None:
        """Take the signature away, and the run's word of it."""
        shutil.rmtree(self.artifact("signatures"))
        self.api.delete_tag(self.run_id, "mergeflow.signed_by")


def edited_statement(at: OfSignatures) -> None:
    stated = at.statement()
    stated["predicate"]["buildDefinition"]["externalParameters"]["recipe"] = "lovely"
    payload = base64.b64encode(json.dumps(stated).encode()).decode()
    at.replace_statement(edited(at.signature(STATEMENT).read_bytes(), payload=payload))


def by_another_key(at: OfSignatures, *, named: bool) -> None:
    """The same statement by another key, which names itself, or the key that is trusted."""
    signed = seal(at.statement(), private_key(at.evil(), "release"))
    if not named:
        [signature] = json.loads(signed)["signatures"]
        signed = edited(signed, signatures=[signature | {"keyid": at.key_id}])
    at.replace_statement(signed)


def signed_twice(at: OfSignatures, *, ours_first: bool) -> None:
    """The envelope has our signature, and somebody else's of the same statement."""
    ours = json.loads(at.signature(STATEMENT).read_text())["signatures"]
    theirs = json.loads(seal(at.statement(), private_key(at.evil(), "release")))["signatures"]
    both = [*ours, *theirs] if ours_first else [*theirs, *ours]
    at.replace_statement(edited(at.signature(STATEMENT).read_bytes(), signatures=both))


def exchanged_key(at: OfSignatures) -> None:
    """Public and private key are somebody else's, and the statement is theirs, too."""
    keys = at.home.home.keys
    for name in ("release.pem", "release.pub"):
        (keys / name).unlink()
        shutil.copy(at.evil().keys / name, keys / name)
    theirs = private_key(at.home.home, "release")
    for name in (FILES, STATEMENT):
        content = at.signature(name).read_bytes()
        at.artifact(f"signatures/{theirs.public.key_id}").mkdir(exist_ok=True)
        at.artifact(f"signatures/{theirs.public.key_id}/{name}").write_bytes(content)
    statement = seal(at.statement(), theirs)
    at.artifact(f"signatures/{theirs.public.key_id}/{STATEMENT}").write_bytes(statement)
    shutil.rmtree(at.artifact(f"signatures/{at.key_id}"))
    shutil.rmtree(at.home.home.signatures)
    at.api.set_tag(at.run_id, "mergeflow.signed_by", theirs.public.key_id)


def cut(lines: list[dict[str, Any]]) -> None:
    """All but what was there when the merge was not yet promoted."""
    del lines[1:]


def other_history(lines: list[dict[str, Any]]) -> None:
    lines[0]["at"] = "1999-01-01T00:00:00+00:00"


def listed_anew(at: OfSignatures) -> None:
    """A file of the run is edited, the list of files and the run's word of that agree."""
    name = "reports/evaluation-merged.json"
    at.artifact(name).write_text("{}")
    relisted(at, name)
    listed = at.artifact("files.json").read_bytes()
    at.api.set_tag(at.run_id, "mergeflow.files", hashlib.sha256(listed).hexdigest())


def never_signed(at: OfSignatures) -> None:
    """Nothing in MLflow or in the history speaks of it; the home's own copy is left."""
    at.forget()
    at.history(lambda lines: lines.__delitem__(slice(4, None)))


def other_environment(at: OfSignatures) -> None:
    at.edit(at.artifact("environment.json"), lambda value: value["packages"].update(torch="1.0"))


def other_start(at: OfSignatures) -> None:
    relocked(at, lambda value: value.update(started="2020-01-01T00:00:00+00:00"))


def other_files_of_the_record(at: OfSignatures) -> None:
    def change(value: dict[str, Any]) -> None:
        value["files"][-1]["sha256"] = "0" * 64

    at.edit(at.artifact("manifest.json"), change)


def planted_link(at: OfSignatures) -> None:
    secret = at.home.home.path / "secret"
    secret.write_bytes(at.signature(STATEMENT).read_bytes())
    at.signature(STATEMENT).unlink()
    at.signature(STATEMENT).symlink_to(secret)


KINDS: dict[str, tuple[Callable[[OfSignatures], object], str]] = {
    "a bit of signed weights": (lambda at: flip(at.weights), "not what was signed"),
    "a file more than was signed": (
        lambda at: (at.home.object / ".gitattributes").write_text("* binary"),
        "not what was signed",
    ),
    "a record of other files": (other_files_of_the_record, "of other files: "),
    "both signatures of another version": (lambda at: at.swap(FILES, STATEMENT), "of other files"),
    "the statement of another version": (lambda at: at.swap(STATEMENT), "in the statement and"),
    "the signature over another version's files": (lambda at: at.swap(FILES), "of other files"),
    "an edited statement": (edited_statement, "it is not signed by that key"),
    "a statement by another key": (lambda at: by_another_key(at, named=True), "it names the key"),
    "a statement by another key in this key's name": (
        lambda at: by_another_key(at, named=False),
        "it is not signed by that key",
    ),
    "another key in place of the key": (exchanged_key, "is gone: line 5 of the history"),
    "another public key": (
        lambda at: shutil.copy(at.evil().keys / "release.pub", at.home.home.keys),
        "is not the public half of",
    ),
    "a public key that is none": (
        lambda at: (at.home.home.keys / "release.pub").write_text("hello"),
        "the public key release.pub is not believed",
    ),
    "a cut history, and the registry agrees": (lambda at: at.history(cut), "the history was cut"),
    "a rewritten history, and the registry agrees": (
        lambda at: at.history(other_history),
        "is not the one that the statement has seen",
    ),
    "a history that is lost, and the registry has forgotten it": (
        lambda at: [
            shutil.rmtree(at.home.home.history),
            *(
                at.api.delete_registered_model_tag("model", tag)
                for tag in at.api.get_registered_model("model").tags
                if tag.startswith(HEAD_TAG)
            ),
        ],
        "is gone, from the registry too",
    ),
    "signatures that were taken away": (lambda at: at.forget(), "is gone: a file beside"),
    "signatures that were taken away in MLflow and in the history": (
        never_signed,
        "is gone: a file beside the object",
    ),
    "signatures that were taken away at home too": (
        lambda at: [at.forget(), shutil.rmtree(at.home.home.signatures)],
        "is gone: line 5 of the history",
    ),
    "the signature over the files alone": (
        lambda at: at.signature(FILES).unlink(),
        "the signature of the files by key",
    ),
    "the statement alone": (lambda at: at.signature(STATEMENT).unlink(), "it is missing"),
    "a statement of 17 MiB": (
        lambda at: at.signature(STATEMENT).write_bytes(b" " * (17 << 20)),
        "no file of a signature's size",
    ),
    "a statement that is a link": (planted_link, "it cannot be fetched"),
    "a statement that is no JSON": (
        lambda at: at.signature(STATEMENT).write_bytes(b"\xff\xfe"),
        "it is not JSON",
    ),
    "a signature that is no bundle": (
        lambda at: at.signature(FILES).write_text("{}"),
        "has not the fields",
    ),
    "something else among the signatures": (
        lambda at: at.signature("evil.py").write_text("1"),
        "evil.py lies among the signatures",
    ),
    "the copy beside the object": (
        lambda at: shutil.copyfile(at.signature(STATEMENT, at.other_run), at.beside(STATEMENT)),
        "beside the object is another one",
    ),
    "the versions that it was made with": (other_environment, "builder.version.torch"),
    "when it was made": (other_start, "metadata.startedOn"),
    "a file of the record, listed anew": (listed_anew, "files.json"),
    "the run's word of the key": (
        lambda at: at.api.delete_tag(at.run_id, "mergeflow.signed_by"),
        "the run's tag does not name the key",
    ),
    "a second signature in the envelope, by another key": (
        lambda at: signed_twice(at, ours_first=True),
        "it has not exactly one signature",
    ),
    "a second signature in the envelope, the first by another key": (
        lambda at: signed_twice(at, ours_first=False),
        "it has not exactly one signature",
    ),
    "a payload of another type": (
        lambda at: at.replace_statement(
            edited(at.signature(STATEMENT).read_bytes(), payloadType="application/json")
        ),
        "its payload is of type application/json",
    ),
    "an envelope that says something twice": (
        lambda at: at.replace_statement(
            at.signature(STATEMENT).read_bytes().replace(b"{", b'{"payload":"e30=",', 1)
        ),
        "key 'payload' appears twice",
    ),
    "a signature of the files by halves": (
        lambda at: at.signature(FILES).write_bytes(at.signature(FILES).read_bytes()[:-40]),
        "it is not JSON",
    ),
    "a public key with another one behind it": (
        lambda at: (at.home.home.keys / "release.pub").write_bytes(
            (at.home.home.keys / "release.pub").read_bytes()
            + (at.evil().keys / "release.pub").read_bytes()
        ),
        "it holds more than one key",
    ),
    "a public key that all may write": (
        lambda at: (at.home.home.keys / "release.pub").chmod(0o666),
        "others may write it",
    ),
    "keys in a directory that all may write to": (
        lambda at: at.home.home.keys.chmod(0o777),
        "no key is believed: others may write to",
    ),
    "a private key that others may read": (
        lambda at: (at.home.home.keys / "release.pem").chmod(0o644),
        "others than its owner may read or change this key",
    ),
    "a reason of the signed decision": (
        lambda at: at.edit(
            at.artifact("decision.json"), lambda value: value.update(reasons=["it is lovely"])
        ),
        "byproducts[decision.json].digest.sha256",
    ),
    "a document of a signed evaluation": (
        lambda at: at.edit(
            at.artifact("evaluation.json", at.evaluation("merged").info.run_id),
            lambda value: value.update(truncated=1),
        ),
        "byproducts[evaluation: merged].digest.sha256",
    ),
}
"""Each with what is done, and words of what the audit says of the signature."""
