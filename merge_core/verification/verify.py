"""Do these checkpoints belong in one merge? One report: errors stop it, warnings and information do
not; every error says what to do. Ancestry is measured on the weights, never believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from merge_core.checkpoints.adapters.beside import beside_weights
from merge_core.checkpoints.model_card import declared_bases
from merge_core.checkpoints.sources import open_source
from merge_core.checkpoints.tensor_names import named_as
from merge_core.errors import CheckpointError, CompatibilityError, NonFiniteError
from merge_core.files.digests import digest_of
from merge_core.findings import Finding, Severity, counted, some
from merge_core.progress import Progress, Throttle
from merge_core.records import Record, SourceCheckpoint
from merge_core.runtime.threads import default_threads
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.safetensors_header import KnownHeaders, TensorEntry
from merge_core.tokenizers.comparison import compare_tokenizers
from merge_core.tokenizers.prompting import compare_prompting, read_prompting
from merge_core.tokenizers.tokenizer import Tokenizer, read_tokenizer, tokenizer_contents
from merge_core.verification.alone_findings import alone_findings, tokens_without_rows
from merge_core.verification.ancestry import Ancestry, measure_ancestry
from merge_core.verification.class_comparison import architecture_of
from merge_core.verification.headers import facts_of, in_order, preflight
from merge_core.verification.kinship import (
    Subject,
    ancestry_findings,
    declaration_findings,
    length_findings,
    twin_findings,
)
from merge_core.verification.non_finite import find_non_finite, scanned_bytes
from merge_core.verification.tied_copies import tied_copies
from merge_core.verification.told_base import other_base
from merge_core.verification.tolerance import STRICT, Tolerance

VERSION = 6
"""Raised when the same checkpoints would give another report; part of `verify_key`."""


class CheckpointRow(Record):
    """One line of the report's table: what a checkpoint is, and how it relates to the base."""

    reference: str
    role: Literal["base", "model"]
    digest: str
    architecture: str | None = None
    """None, like everything below, when the checkpoint could not be opened."""
    parameters: int | None = None
    dtype: str | None = None
    tensors: int | None = None
    tokenizer: str | None = None
    """sha256 of what the tokenizer does; equal for equal behaviour, whatever the files' form."""
    relative_norm: float | None = None
    """Sampled ||θ - θ0|| / ||θ0||; θ0 is the base, or the first model when there is no base."""
    cosine: float | None = None
    """Sampled cosine of θ and θ0."""
    median_cosine: float | None = None
    """Median over the sampled tensors of their cosines: the verdict rests on it."""
    verdict: str
    """In words, e.g. `fine-tune of the base`."""


class CompatibilityReport(Record):
    """What `verify` found."""

    base: str | None
    rows: tuple[CheckpointRow, ...]
    findings: tuple[Finding, ...]
    """Errors first, then warnings, then information."""
    scanned: bool
    """Whether every weight was read in search of NaN and infinity."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What forbids a merge."""
        return self._of("error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What a person should look at."""
        return self._of("warning")

    @property
    def ok(self) -> bool:
        """Whether nothing forbids a merge."""
        return not self.errors

    def _of(self, severity: Severity) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == severity)


def verify(
    base: SourceCheckpoint | None,
    models: Sequence[SourceCheckpoint],
    *,
    scan_weights: bool = True,
    tolerance: Tolerance = STRICT,
    threads: int | None = None,
    progress: Progress | None = None,
) -> CompatibilityReport:
    """Examine checkpoints that are to be merged. Never raises for what is wrong with them.

    Args:
        base: the common ancestor; without one the models are compared with the first of them.
        scan_weights: read every weight in search of NaN and infinity (as fast as the disk gives
            them). Everything else reads headers, small files and at most 4 Mi sampled weights.
        tolerance: in what they may differ (`Tolerance.of(recipe)`).
    """
    sources = _distinct([*([base] if base else []), *models])
    findings: list[Finding] = []
    subjects: dict[str, Subject] = {}
    known: KnownHeaders = {}
    for source in sources:
        try:
            subjects[source.reference] = Subject(source, open_source(source, known))
        except (CheckpointError, CompatibilityError) as error:
            findings.append(_refused(source.reference, error))
    stored = list(subjects.values())
    opened = _named_as_first(stored)
    for subject in stored:
        is_donor = subject.source is sources[0]
        findings += alone_findings(subject, is_donor=is_donor)
    tokenizers = _read_tokenizers(opened, findings)
    for subject in opened:
        findings += tokens_without_rows(subject, tokenizers.get(subject.name))
    ancestries: dict[str, Ancestry] = {}
    with BlockReader() as reader:
        if sources and sources[0].reference in subjects:
            first, others = opened[0], opened[1:]
            copies = frozenset(tied_copies([subject.checkpoint for subject in opened]))
            facts = [facts_of(subject.name, subject.checkpoint, copies) for subject in stored]
            findings += preflight(facts[0], facts[1:], tolerance=tolerance)
            for subject in opened:
                findings += beside_weights(subject.name, subject.checkpoint.directory)
                findings += other_base(subject)
            for other in others:
                measured = _measure(first, other, reader)
                if measured:
                    ancestries[other.name] = measured
                findings += _compare_files(first, other, tokenizers, tolerance.vocabulary)
                findings += ancestry_findings(
                    first,
                    other,
                    base is not None,
                    measured,
                    may_be_unrelated=tolerance.unrelated,
                )
                if base is not None:
                    findings += declaration_findings(first, other, measured)
            findings += twin_findings(opened, ancestries, base is not None, reader)
            if base is not None:
                findings += length_findings(ancestries)
        if scan_weights:
            findings += _scan(opened, reader, threads or default_threads(), progress)
    rows = [
        _row(source, subjects, tokenizers, ancestries, base, is_first=index == 0)
        for index, source in enumerate(sources)
    ]
    return CompatibilityReport(
        base=base.reference if base else None,
        rows=tuple(rows),
        findings=in_order(findings),
        scanned=scan_weights,
    )


def raise_for_errors(report: CompatibilityReport) -> None:
    """Turn a report's errors, if any, into one exception that lists them all.

    Raises:
        CompatibilityError: the report has errors.
    """
    errors = report.errors
    if len(errors) == 1:
        raise CompatibilityError(errors[0].message, where=errors[0].subject, mend=errors[0].mend)
    if errors:
        listed = [line for error in errors for line in f"- {error}".split("\n")]
        raise CompatibilityError(
            f"{len(errors)} reasons why these cannot be merged:", details=listed
        )


def verify_key(
    base: SourceCheckpoint | None,
    models: Sequence[SourceCheckpoint],
    *,
    scan_weights: bool = True,
    tolerance: Tolerance = STRICT,
) -> str:
    """Digest of everything a report depends on: contents, names, model cards' claims, options."""
    described = [
        [source.reference, source.digest, declared_bases(source.directory)]
        for source in _distinct([*([base] if base else []), *models])
    ]
    return digest_of(
        {
            "version": VERSION,
            "base": base is not None,
            "checkpoints": described,
            "scan_weights": scan_weights,
            "tolerance": {
                name: value
                for name, value in tolerance.model_dump().items()
                if name != "unrelated" or value  # keys of reports made before it was there
            },
        }
    )


def _measure(first: Subject, other: Subject, reader: BlockReader) -> Ancestry | None:
    """The measured ancestry; None also where weights that are made as they are read,
    an adapter's say, come out as NaN. The search for NaN reports those, if it is asked for."""
    try:
        return measure_ancestry(first.checkpoint, other.checkpoint, reader)
    except NonFiniteError:
        return None


def _distinct(sources: Sequence[SourceCheckpoint]) -> list[SourceCheckpoint]:
    return list({source.reference: source for source in reversed(sources)}.values())[::-1]


def _refused(reference: str, error: CheckpointError | CompatibilityError) -> Finding:
    return Finding(
        severity="error",
        code="checkpoint-refused",
        subject=reference,
        message=error.what,
        mend=error.mend or "fetch or save the checkpoint again",
        where=error.where,
    )


def _read_tokenizers(
    subjects: Sequence[Subject], findings: list[Finding]
) -> dict[str, Tokenizer | None]:
    """Tokenizers by reference; the same files are read once. One that is damaged is left out."""
    read: dict[object, Tokenizer | None] = {}
    tokenizers: dict[str, Tokenizer | None] = {}
    for subject in subjects:
        directory = subject.checkpoint.directory
        try:
            key = tokenizer_contents(directory, subject.source.files)
            if key not in read:
                read[key] = read_tokenizer(directory)
            tokenizers[subject.name] = read[key]
        except CheckpointError as error:
            findings.append(_refused(subject.name, error))
    return tokenizers


def _named_as_first(subjects: Sequence[Subject]) -> list[Subject]:
    """Subjects whose tensors have the names of the first one's, where they can."""
    if not subjects:
        return []
    pattern = subjects[0].checkpoint
    return [
        replace(subject, checkpoint=named_as(pattern, subject.checkpoint)) for subject in subjects
    ]


def _compare_files(
    first: Subject,
    other: Subject,
    tokenizers: dict[str, Tokenizer | None],
    vocabulary_may_differ: bool,
) -> list[Finding]:
    findings = []
    if first.name in tokenizers and other.name in tokenizers:
        findings += compare_tokenizers(
            first.name,
            tokenizers[first.name],
            other.name,
            tokenizers[other.name],
            may_differ=vocabulary_may_differ,
        )
    prompting = []
    for subject in (first, other):
        try:
            found = read_prompting(subject.checkpoint.directory, subject.checkpoint.config)
        except CheckpointError as error:
            return [*findings, _refused(subject.name, error)]
        prompting.append(found)
    ours, theirs = prompting
    return findings + compare_prompting(first.name, ours, other.name, theirs)


def _scan(
    subjects: Sequence[Subject], reader: BlockReader, threads: int, progress: Progress | None
) -> list[Finding]:
    distinct = {subject.weight_files or subject.name: subject for subject in subjects}
    total = sum(scanned_bytes(subject.checkpoint) for subject in distinct.values())
    throttle = Throttle(progress, "look for NaN", total)
    problems = {}
    known: dict[TensorEntry, tuple[int, int]] = {}
    for key, subject in distinct.items():
        try:
            found = find_non_finite(subject.checkpoint, reader, threads, throttle.advance, known)
        except CheckpointError as error:
            problems[key] = (error.what, error.mend, error.where)
            continue
        if found:
            problems[key] = (
                f"{counted(len(found), 'tensor')} with values that are no numbers: {some(found)}",
                "its training diverged or the file is damaged: use an earlier checkpoint of it, or"
                " fetch it again",
                found[0].tensor,
            )
    findings = []
    for subject in subjects:
        problem = problems.get(subject.weight_files or subject.name)
        if problem:
            message, mend, where = problem
            findings.append(
                Finding(
                    severity="error",
                    code="non-finite-weights",
                    subject=subject.name,
                    message=message,
                    mend=mend,
                    where=where,
                )
            )
    return findings


def _row(
    source: SourceCheckpoint,
    subjects: dict[str, Subject],
    tokenizers: dict[str, Tokenizer | None],
    ancestries: dict[str, Ancestry],
    base: SourceCheckpoint | None,
    *,
    is_first: bool,
) -> CheckpointRow:
    role: Literal["base", "model"] = "base" if is_first and base else "model"
    subject = subjects.get(source.reference)
    if subject is None:
        return CheckpointRow(
            reference=source.reference, role=role, digest=source.digest, verdict="cannot be read"
        )
    tokenizer = tokenizers.get(source.reference)
    ancestry = ancestries.get(source.reference)
    return CheckpointRow(
        reference=source.reference,
        role=role,
        digest=source.digest,
        architecture=architecture_of(subject.checkpoint.config),
        parameters=subject.checkpoint.parameters,
        dtype=subject.checkpoint.dtype,
        tensors=len(subject.checkpoint.tensors),
        tokenizer=tokenizer.digest if tokenizer else None,
        relative_norm=round(ancestry.relative_norm, 6) if ancestry else None,
        cosine=round(ancestry.cosine, 6) if ancestry else None,
        median_cosine=round(ancestry.median_cosine, 6) if ancestry else None,
        verdict=_verdict(ancestry, is_first, base is not None),
    )


def _verdict(ancestry: Ancestry | None, is_first: bool, has_base: bool) -> str:
    other = "the base" if has_base else "the first model"
    if is_first:
        return other
    if ancestry is None:
        return "not comparable"
    return {
        "identical": f"no different from {other}",
        "near": "fine-tune of the base" if has_base else "of one origin with the first model",
        "far": f"far from {other}",
        "unrelated": f"unrelated to {other}",
    }[ancestry.kinship]
