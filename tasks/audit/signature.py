"""The signatures: over the files, and over the statement of how they were made."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from merge_core.errors import CheckpointError
from merge_core.files.digests import DigestMemo
from merge_core.files.own_files import NotOursError, read_own
from merge_core.files.sha256sums import SUMS_NAME
from merge_core.findings import printable, some
from merge_core.output.manifest import MANIFEST_NAME
from merge_core.store.objects import object_problems
from tasks.audit.evidence import Evidence
from tasks.audit.facts import facts_of
from tasks.audit.report import Answers
from tasks.audit.signatures import (
    FILES,
    SignatureFile,
    Signed,
    place_of,
    read_signature_file,
    signatures_of,
    signed_lines,
)
from tasks.registry.alias_state import alias_state
from tasks.registry.client import TAG
from tasks.registry.history import HEAD_TAG, Head, HistoryLine, find_histories
from tasks.registry.memory import canonical
from tasks.signing import model_signature, statement
from tasks.signing.envelope import LONGEST, UnsoundError
from tasks.signing.keys import PublicKey
from tasks.signing.statement import SeenHistory
from tasks.signing.trust import Trust

_NO_MERGE = "it is registered as no merge of mergeflow's, and no key vouches for anything else"
_NAMES = {model_signature.NAME: "the signature of the files", statement.NAME: "the statement"}


def check(evidence: Evidence, answers: Answers) -> None:
    """By a key that counts, over the files and the record as they are; or there is none, and
    nothing says that there has to be one."""
    trust = evidence.trust or Trust.of_home(evidence.home)
    tags = dict(alias_state(evidence.registry, evidence.version.name).tags)
    lines = list(signed_lines(evidence, tags))
    found = signatures_of(evidence)
    if any(trust.of_id(each.key_id) is None for each in found):
        for problem in trust.problems:  # one of them may be why a key is not known
            answers.fails(problem)
    _gone(evidence, found, lines, trust, answers)
    sound = [_one(evidence, each, trust, lines, tags, answers) for each in found]
    if trust.named and not any(sound):
        here = {each.key_id for each in found}
        for key in (each for each in trust.keys if each.key_id not in here):
            answers.fails(f"it is not signed by {key.label}, the key that was named")


def check_base(evidence: Evidence, answers: Answers) -> None:
    """Only merges are signed: who asks for a key's word has none for anything else."""
    if evidence.trust is not None and evidence.trust.named:
        answers.fails(_NO_MERGE)


def check_base_of_many(evidence: Evidence, answers: Answers) -> None:
    """The same where every version is audited: a base is in every registry."""
    if evidence.trust is not None and evidence.trust.named:
        answers.unknown(_NO_MERGE)


def _gone(
    evidence: Evidence,
    found: list[Signed],
    lines: list[HistoryLine],
    trust: Trust,
    answers: Answers,
) -> None:
    """Signatures that the record speaks of, and that are not there."""
    here = {each.key_id for each in found}
    noted = evidence.run.data.tags.get(TAG + "signed_by", "") if evidence.run else ""
    missing = {key_id: "the run's tag" for key_id in noted.split() if key_id not in here}
    missing |= {line.key: f"line {line.number} of the history" for line in lines if line.key}
    missing |= dict.fromkeys(_keys_beside(evidence), "a file beside the object")
    for key_id in sorted(missing.keys() - here):
        by = printable(key_id[:12])
        answers.fails(f"the signature by key {by} is gone: {missing[key_id]} speaks of it")
    said = {line.key: line.number for line in lines if line.key in here}
    for key_id in sorted(said.keys() - {*noted.split(), None}):
        by = f"line {said[key_id]} of the history"
        answers.fails(f"the run's tag does not name the key {printable(key_id[:12])}, as {by} does")
    wanted = _asked_for(evidence)
    if found or answers.failed:
        return
    if wanted:
        answers.fails(f"unsigned, and its pipeline says `register: {{sign: {wanted}}}`")
    elif not trust.named:
        answers.holds("unsigned: nobody vouches for this record")


def _asked_for(evidence: Evidence) -> str | None:
    register = evidence.lock.pipeline.get("register") if evidence.lock else None
    wanted = register.get("sign") if isinstance(register, dict) else None
    return printable(wanted) if wanted else None


def _one(
    evidence: Evidence,
    signed: Signed,
    trust: Trust,
    lines: list[HistoryLine],
    tags: Mapping[str, str],
    answers: Answers,
) -> bool:
    """Whether both files of one key hold, and the key is one that counts."""
    by = printable(signed.key_id[:12])
    failed, key = False, trust.of_id(signed.key_id)
    for name in signed.strange:
        answers.fails(f"{printable(name)} lies among the signatures, and is none")
        failed = True
    statements: dict[str, dict[str, Any]] = {}
    for name in FILES:
        problem = _believed(signed.files[name], signed.key_id, key, trust, statements)
        if problem:
            answers.fails(f"{_NAMES[name]} by key {by}: {problem}")
            failed = True
    if failed:
        return False
    if key is None:
        also = ", and not the key that was named" if trust.named else ""
        answers.unknown(
            f"signed by key {by}, which is not among the trusted keys{also}; `mergeflow keys trust`"
            " takes its owner's file into them"
        )
        return False
    try:
        problems = _of_files(evidence, model_signature.signed_files(statements[FILES[0]]))
        problems += _of_record(evidence, statements[FILES[1]], tags)
    except UnsoundError as error:
        problems = [str(error)]
    problems += _noted(signed, lines) + _beside(evidence, signed)
    for problem in problems:
        answers.fails(f"signed by {key.label}, but {problem}")
    if not problems:
        _holds(evidence, key, answers)
    return not problems


def _believed(
    file: SignatureFile,
    key_id: str,
    key: PublicKey | None,
    trust: Trust,
    statements: dict[str, dict[str, Any]],
) -> str | None:
    """Why a file is not this key's; None where it is, or the key is unknown."""
    if file.envelope is None:
        return file.problem
    if file.envelope.key_id != key_id:
        return f"it names the key {printable(file.envelope.key_id[:12])}"
    signer = file.envelope.signer([key] if key else trust.keys)
    if signer is None:
        return "it is not signed by that key" if key else None
    if signer.key_id != key_id:
        return f"it is signed by {signer.label}"
    try:
        statements[file.name] = file.envelope.statement()
    except UnsoundError as error:
        return str(error)
    return None


def _of_files(evidence: Evidence, signed: Mapping[str, str]) -> list[str]:
    """The files that were signed are those of the record, and those on this disk."""
    manifest = evidence.manifest
    if manifest is None:
        return ["the run's manifest is gone, which says what its files are"]
    known = {file.name: file.sha256 for file in manifest.files} | {SUMS_NAME: manifest.object_id}
    other = [name for name, digest in known.items() if signed.get(name) != digest]
    more = signed.keys() - known.keys() - {MANIFEST_NAME}
    if other or more or MANIFEST_NAME not in signed:
        return [f"it is of other files: {some(sorted({*other, *more})) or MANIFEST_NAME}"]
    directory = evidence.object_directory
    if directory is None:
        return []
    is_served = evidence.checkpoint is not None and evidence.checkpoint.directory == directory
    try:
        if is_served:
            found = evidence.departed
        else:
            found = object_problems(directory, DigestMemo(None), afresh=True)
    except CheckpointError as error:
        found = [error.what]
    return [f"the files on this disk are not what was signed: {some(found)}"] if found else []


def _of_record(evidence: Evidence, signed: dict[str, Any], tags: Mapping[str, str]) -> list[str]:
    """The statement says what the record says, and the history goes at least as far."""
    if signed.get("predicateType") != statement.PREDICATE:
        return [f"its predicate is of type {printable(signed.get('predicateType'))}"]
    facts = facts_of(evidence)
    if facts is None:
        return ["the record that it speaks of is not whole"]
    seen = statement.seen_history(signed)
    different = statement.differences(signed, statement.statement_of(facts, seen))
    problems = [f"{different[0]}{_and_more(different)}"] if different else []
    return problems + (_of_history(evidence, seen, tags) if seen else [])


def _of_history(evidence: Evidence, seen: SeenHistory, tags: Mapping[str, str]) -> list[str]:
    address = canonical(evidence.home, evidence.registry.tracking_uri)
    name, head = evidence.version.name, seen.head
    here = find_histories(evidence.home, address, name, tags)
    history = next((each for each in here if each.chain == seen.chain), None)
    if history is not None:
        if len(history.digests) < head.number:
            left = len(history.digests)
            return [f"the history was cut: the statement has seen {head.number} lines of {left}"]
        if head.number and history.digests[head.number - 1] != head.digest:
            return [f"line {head.number} of the history is not the one that the statement has seen"]
        return []
    known = Head.read(tags.get(HEAD_TAG + seen.chain))
    if known is None:
        return [f"the history {seen.chain} that it has seen is gone, from the registry too"]
    if known.number < head.number or (known.number == head.number and known != head):
        return [f"the registry knows {known.number} lines of the history, and it has seen more"]
    return []


def _noted(signed: Signed, lines: list[HistoryLine]) -> list[str]:
    """The history speaks of this statement, where it speaks of one by this key."""
    content = signed.files[statement.NAME].content or b""
    digest = sha256(content).hexdigest()
    noted = {line.statement: line.number for line in lines if line.key == signed.key_id}
    if noted and digest not in noted:
        return [f"line {max(noted.values())} of the history speaks of another statement"]
    return []


def _beside(evidence: Evidence, signed: Signed) -> list[str]:
    """What the home keeps beside the object is by the same key, and says the same."""
    if evidence.manifest is None or evidence.run is None:
        return []
    problems = []
    for name in FILES:
        arguments = (evidence.manifest.object_id, signed.key_id, evidence.run.info.run_id, name)
        try:
            content = read_own(place_of(evidence.home, *arguments), LONGEST)
        except FileNotFoundError:
            continue
        except NotOursError as error:
            problems.append(f"{_NAMES[name]} beside the object is not believed: {error}")
            continue
        there = signed.files[name].envelope
        here = read_signature_file(name, content).envelope
        if here is None or there is None or here.payload != there.payload:
            problems.append(f"{_NAMES[name]} beside the object is another one")
    return problems


def _keys_beside(evidence: Evidence) -> list[str]:
    """Keys by which the home has a statement on this run."""
    if evidence.manifest is None or evidence.run is None:
        return []
    directory = evidence.home.signatures / evidence.manifest.object_id
    wanted = f"*/{evidence.run.info.run_id}.{statement.NAME}"
    return [path.parent.name for path in directory.glob(wanted)] if directory.is_dir() else []


def _holds(evidence: Evidence, key: PublicKey, answers: Answers) -> None:
    count = len(evidence.manifest.files) + 2 if evidence.manifest else 0
    where = "" if evidence.object_directory else "; the files themselves are not here"
    answers.holds(f"signed by {key.label}: {count} files, and what its record says{where}")


def _and_more(different: list[str]) -> str:
    return f", and {len(different) - 1} more" if len(different) > 1 else ""
