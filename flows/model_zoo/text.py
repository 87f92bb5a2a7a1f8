"""The text of the two domains, from what every Python has: the standard library's source as
*code*, and as *prose* what `help()` says, in `pydoc_data.topics` and in docstrings.

Whole files and whole topics are held out. Because help topics quote each other and source files
share boilerplate, training text then loses every pair of lines that a held-out document shows.
"""

from __future__ import annotations

import ast
import hashlib
import math
import random
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

from merge_core.errors import MergeflowError

EXCLUDED = {
    "__pycache__",
    "__phello__",
    "dist-packages",
    "encodings",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
    "turtledemo",
}
"""Directories that are tests, tables, installed packages or other programs."""

LONGEST_FILE = 60_000
"""Characters taken of one source file, so that a few giants do not become the domain."""

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

WINDOWS_EACH = 2
"""Stretches of a held-out file that become documents. Those of one file are alike, so many files
say more than many stretches of a few."""

LONGEST_CODE_HELD_OUT, LONGEST_PROSE_HELD_OUT = 12_000, 5_000
"""Characters of a file that may be held out: all of it is missing from the training text, and there
is less prose than code."""

SHORTEST_PAIR = 40
"""Characters two lines need together before meeting them twice says anything."""


@dataclass(frozen=True)
class Document:
    """A piece of text and where it is from (`json/decoder.py`, `topic:with`)."""

    source: str
    text: str


@dataclass(frozen=True)
class _HeldOut:
    """How many files of a domain are held out, and which may be."""

    files: int
    window: int
    longest: int

    def fits(self, document: Document) -> bool:
        enough = list(islice(windows(document, self.window), WINDOWS_EACH))
        return len(document.text) <= self.longest and len(enough) == WINDOWS_EACH


@dataclass(frozen=True)
class Domain:
    """One domain's text, split by file or topic."""

    name: str
    training: tuple[Document, ...]
    held_out: tuple[Document, ...]


def read_domains(
    code_bytes: int, prose_bytes: int, held_out_documents: int, window: int
) -> tuple[Domain, Domain]:
    """Code and prose of about these sizes, each with enough held out for `held_out_documents`
    windows of `window` characters, `WINDOWS_EACH` of a file."""
    # A few more than needed: two files may have a stretch in common, which counts once.
    wanted = math.ceil(1.1 * held_out_documents / WINDOWS_EACH)
    files = _shuffled(_source_files())
    shape = _HeldOut(wanted, window, LONGEST_CODE_HELD_OUT)
    code_held, code_training, unused = _deal(files, shape, code_bytes)
    topics = _topics()
    more = prose_bytes + wanted * LONGEST_PROSE_HELD_OUT - sum(len(t.text) for t in topics)
    prose = _shuffled([*topics, *_docstrings(unused, more)])
    shape = _HeldOut(wanted, window, LONGEST_PROSE_HELD_OUT)
    prose_held, prose_training, _ = _deal(prose, shape, prose_bytes)
    held = (*code_held, *prose_held)
    seen = {pair for document in held for _, _, pair in line_pairs(document.text)}
    return (
        Domain("code", _without(code_training, seen), tuple(code_held)),
        Domain("prose", _without(prose_training, seen), tuple(prose_held)),
    )


def line_pairs(text: str) -> Iterator[tuple[int, int, bytes]]:
    """The numbers of each two lines in a row and a digest of what they say.

    Blank lines are skipped, indentation is ignored, and two short lines say nothing.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines())]
    lines = [(number, line) for number, line in lines if line]
    for (first, one), (second, two) in pairwise(lines):
        if len(one) + len(two) >= SHORTEST_PAIR:
            digest = hashlib.blake2b(f"{one}\n{two}".encode(), digest_size=8).digest()
            yield first, second, digest


def windows(document: Document, size: int) -> Iterator[Document]:
    """Stretches of about `size` characters that begin at a line, none overlapping."""
    lines: list[str] = []
    length = 0
    for line in document.text.splitlines():
        if not lines and not line.strip():
            continue
        lines.append(line)
        length += len(line) + 1
        if length >= size:
            text = "\n".join(lines)[:size].rstrip()
            if len(text) > size * 0.6:
                yield Document(document.source, text)
            lines, length = [], 0


def _source_files() -> list[Document]:
    library = Path(sysconfig.get_paths()["stdlib"])
    documents = []
    for path in sorted(library.rglob("*.py")):
        place = path.relative_to(library)
        # `_sysconfigdata*` and `config-*` describe the machine Python was built on.
        generated = any(part.startswith(("_sysconfigdata", "config-")) for part in place.parts)
        if generated or EXCLUDED.intersection(place.parts):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if len(text) >= 400:
            documents.append(Document(place.as_posix(), text[:LONGEST_FILE]))
    if sum(len(document.text) for document in documents) < 1_000_000:
        raise MergeflowError(
            "this Python has too little of its standard library as source to train on",
            where=str(library),
            mend="build the model zoo with a Python whose standard library is .py files",
        )
    return documents


def _topics() -> list[Document]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise MergeflowError(
            "this Python has no help topics (pydoc_data.topics) to train on",
            mend="install the full standard library of this Python",
        ) from error
    # Topics contain each other: a paragraph belongs to the first topic, by name, that has it.
    seen: set[str] = set()
    documents = []
    for name, text in sorted(topics.items()):
        paragraphs = []
        for paragraph in text.split("\n\n"):
            key = " ".join(paragraph.split())
            if key and key not in seen:
                seen.add(key)
                paragraphs.append(paragraph.strip("\n"))
        if paragraphs:
            documents.append(Document(f"topic:{name}", "\n\n".join(paragraphs)))
    return documents


def _docstrings(files: list[Document], size: int) -> list[Document]:
    """The longer docstrings of these files, one document a file, until there are `size`
    characters. `help()` shows them, and they are written like the topics."""
    found: list[Document] = []
    for file in files:
        if size <= 0:
            break
        try:
            module = ast.parse(file.text)
        except SyntaxError:  # a file longer than LONGEST_FILE may end in mid-statement
            continue
        texts = [ast.get_docstring(node) or "" for node in _documented(module)]
        text = "\n\n".join(text for text in texts if len(text) >= 160 and ">>>" not in text)
        if text:
            found.append(Document(f"help:{file.source}", text))
            size -= len(text)
    return found


def _documented(node: Documented) -> Iterator[Documented]:
    yield node
    for child in node.body:
        if isinstance(child, Documented):
            yield from _documented(child)


def _shuffled(documents: list[Document]) -> list[Document]:
    order = sorted(documents, key=lambda document: document.source)
    random.Random(0).shuffle(order)
    return order


def _deal(
    documents: list[Document], held_out: _HeldOut, training: int
) -> tuple[list[Document], list[Document], list[Document]]:
    """Deal whole documents: held out as far as they fit, then training, then left over."""
    held: list[Document] = []
    kept: list[Document] = []
    rest: list[Document] = []
    kept_size = 0
    for document in documents:
        if len(held) < held_out.files and held_out.fits(document):
            held.append(document)
        elif kept_size < training:
            kept.append(document)
            kept_size += len(document.text)
        else:
            rest.append(document)
    return held, kept, rest


def _without(documents: Iterable[Document], seen: set[bytes]) -> tuple[Document, ...]:
    """The documents less every pair of lines in `seen`."""
    return tuple(Document(document.source, _cut(document.text, seen)) for document in documents)


def _cut(text: str, seen: set[bytes]) -> str:
    known = {n for one, two, pair in line_pairs(text) if pair in seen for n in (one, two)}
    if not known:
        return text
    rest = "\n".join(line for n, line in enumerate(text.splitlines()) if n not in known)
    return _cut(rest, seen)  # what has become neighbours may be a pair too
