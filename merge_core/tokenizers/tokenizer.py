"""A tokenizer as its files define it: which id stands for which token, how text is split.

Formatting, padding settings and file-format versions make no difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from merge_core.errors import CheckpointError
from merge_core.files.bounded_json import read_json
from merge_core.files.digests import digest_of, sha256_file
from merge_core.files.names import OPAQUE_VOCABULARIES
from merge_core.files.untrusted import check_plain, read_plain
from merge_core.records import FileDigest

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    *OPAQUE_VOCABULARIES,
    "added_tokens.json",
    "tokenizer_config.json",
)
"""Files that define a tokenizer, the one that says most first."""
_MAX_TEXT_BYTES = 64 << 20
_MAX_IDS = 1 << 32
_MAX_SCORE = 1e300
_MOST_DIGITS = 12
_ADDED_FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")
_DEFAULTS = {"ByteLevel": {"use_regex": True}, "Metaspace": {"split": True}}
"""Settings that older files leave out, by the type of the step they belong to."""


@dataclass(frozen=True)
class Tokenizer:
    """What a checkpoint's tokenizer files say."""

    origin: str
    """The file it was read from."""
    ids: Mapping[str, int] | None
    """Every token, added ones included; None when the format only allows comparing bytes."""
    merges: tuple[tuple[str, str], ...]
    """BPE merges in rank order."""
    scores: tuple[float, ...]
    """Unigram scores by id."""
    added: Mapping[str, Mapping[str, bool]]
    """Flags of the added tokens."""
    steps: Mapping[str, Any]
    """How text becomes pieces: normalizer, pre_tokenizer, the model's settings."""
    framing: Mapping[str, Any]
    """What is put around and taken out: post_processor, decoder."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Digest of each vocabulary that is there in a form which is not read."""
    beside: Mapping[str, int] = field(default_factory=dict)
    """Ids of added tokens that a file of their own lists, and `ids` does not hold."""

    @property
    def digest(self) -> str:
        """Equal exactly for tokenizers that turn any text into the same ids."""
        if self.ids is None:
            return digest_of(
                [dict(self.files), dict(self.beside)] if self.beside else dict(self.files)
            )
        added = {token: dict(flags) for token, flags in self.added.items()}
        parts: list[object] = [
            dict(self.ids),
            self.merges,
            self.scores,
            added,
            self.steps,
            self.framing,
        ]
        return digest_of([*parts, dict(self.beside)] if self.beside else parts)


def read_tokenizer(directory: Path) -> Tokenizer | None:
    """A checkpoint's tokenizer; None when it has none of the known files.

    Raises:
        CheckpointError: a tokenizer file that is damaged or of an unknown form.
    """
    binaries = {
        name: _vocabulary_digest(directory, name)
        for name in OPAQUE_VOCABULARIES
        if _has(directory, name)
    }
    if _has(directory, "tokenizer.json"):
        return _from_tokenizer_json(directory / "tokenizer.json", binaries)
    added = _added_tokens(directory)
    if _has(directory, "vocab.json"):
        ids = _ids(read_json(directory / "vocab.json"), directory / "vocab.json")
        merges = _merges_txt(directory / "merges.txt")
        return _plain("vocab.json", ids | added, merges, binaries)
    if _has(directory, "vocab.txt"):
        return _plain("vocab.txt", _vocab_txt(directory / "vocab.txt") | added, (), binaries)
    if binaries:
        return Tokenizer(next(iter(binaries)), None, (), (), {}, {}, {}, binaries, added)
    return None


def tokenizer_contents(
    directory: Path, known: Sequence[FileDigest] = ()
) -> frozenset[tuple[str, str]]:
    """Names and digests of the files that define a tokenizer: of equal ones only one need be read.

    Args:
        known: the files of the checkpoint, if they were hashed.

    Raises:
        CheckpointError: a file that cannot be read.
    """
    if known:
        return frozenset((each.name, each.sha256) for each in known if each.name in TOKENIZER_FILES)
    present = [name for name in TOKENIZER_FILES if _has(directory, name)]
    return frozenset((name, _digest(directory, name)) for name in present)


def _from_tokenizer_json(path: Path, binaries: Mapping[str, str]) -> Tokenizer:
    content = read_json(path, finite=True)
    model = content.get("model")
    if not isinstance(model, dict):
        raise CheckpointError(
            "tokenizer.json has no model",
            where=str(path.parent),
            mend="fetch this file again, or save the tokenizer again",
        )
    vocabulary: Any = model.get("vocab", {})
    scores: tuple[float, ...] = ()
    if isinstance(vocabulary, list):
        if not all(_is_scored(item) for item in vocabulary):
            raise CheckpointError("tokenizer.json has an unusable score", where=str(path.parent))
        scores = tuple(float(score) for _, score in vocabulary)
        vocabulary = {piece: i for i, (piece, _) in enumerate(vocabulary)}
    ids = _ids(vocabulary, path)
    added: dict[str, dict[str, bool]] = {}
    for token in _list(content.get("added_tokens"), "added_tokens", path):
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise CheckpointError("tokenizer.json has unusable added_tokens", where=str(path))
        added[token["content"]] = {flag: bool(token.get(flag)) for flag in _ADDED_FLAGS}
        ids |= _ids({token["content"]: token.get("id")}, path)
    settings = {k: v for k, v in model.items() if k not in ("vocab", "merges", "dropout")}
    steps = {
        "normalizer": _settled(content.get("normalizer")),
        "pre_tokenizer": _settled(content.get("pre_tokenizer")),
        "model": _settled(settings),
    }
    framing = {
        "post_processor": _settled(content.get("post_processor")),
        "decoder": _settled(content.get("decoder")),
    }
    # Older transformers adds these to any tokenizer; what tokenizer.json says goes before.
    beside = {token: i for token, i in _added_tokens(path.parent).items() if token not in ids}
    merges = _pairs(_list(model.get("merges"), "merges", path), path)
    return Tokenizer("tokenizer.json", ids, merges, scores, added, steps, framing, binaries, beside)


def _plain(
    origin: str, ids: dict[str, int], merges: tuple[tuple[str, str], ...], files: Mapping[str, str]
) -> Tokenizer:
    return Tokenizer(origin, ids, merges, (), {}, {}, {}, files)


def _settled(value: Any) -> Any:
    """A step without its unset settings, with defaults that older files leave out filled in."""
    if isinstance(value, list):
        return [_settled(item) for item in value]
    if not isinstance(value, dict):
        return value
    known = {
        key: _settled(item)
        for key, item in value.items()
        if item not in (None, False, "") and key != "trim_offsets"
    }
    return {**_DEFAULTS.get(str(known.get("type")), {}), **known}


def _ids(vocabulary: Any, path: Path) -> dict[str, int]:
    if not isinstance(vocabulary, dict) or not all(
        type(i) is int and 0 <= i < _MAX_IDS for i in vocabulary.values()
    ):
        raise CheckpointError(
            f"{path.name} has a vocabulary that does not map tokens to ids",
            where=str(path.parent),
            mend="fetch this file again, or save the tokenizer again",
        )
    return dict(vocabulary)


def _is_scored(item: Any) -> bool:
    """Whether an entry of a Unigram vocabulary is a piece with a score that float64 holds."""
    return (
        isinstance(item, list)
        and len(item) == 2
        and isinstance(item[0], str)
        and type(item[1]) in (int, float)
        and abs(item[1]) < _MAX_SCORE
    )


def _list(value: Any, key: str, path: Path) -> list[Any]:
    if not isinstance(value, list | None):
        raise CheckpointError(f"{path.name} has {key} that are not a list", where=str(path.parent))
    return value or []


def _pairs(merges: list[Any], path: Path) -> tuple[tuple[str, str], ...]:
    """Merges in either form: `"a b"` of older files, `["a", "b"]` of newer ones."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    if not all(type(p) is list and len(p) == 2 and type(p[0]) is type(p[1]) is str for p in pairs):
        raise CheckpointError(f"{path.name} has an unusable merge", where=str(path.parent))
    return tuple([(left, right) for left, right in pairs])


def _vocab_txt(path: Path) -> dict[str, int]:
    """Ids of a list of tokens, one in each line.

    A line ends at a line feed and nowhere else: tokens may be, or hold, other characters that
    Python or Unicode take for the end of one.
    """
    lines = _text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    if lines and all(line.endswith("\r") for line in lines):  # saved by an editor of Windows
        lines = [line[:-1] for line in lines]
    return {token: i for i, token in enumerate(lines)}


def _added_tokens(directory: Path) -> dict[str, int]:
    """Ids of tokens that were added after training, as added_tokens.json and, by number,
    tokenizer_config.json have them."""
    found: dict[str, int] = {}
    settings = directory / "tokenizer_config.json"
    decoder = read_json(settings).get("added_tokens_decoder") if settings.exists() else None
    for number, token in decoder.items() if isinstance(decoder, dict) else ():
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str) and str(number).isdecimal() and len(str(number)) < _MOST_DIGITS:
            found |= _ids({content: int(number)}, settings)
    listed = directory / "added_tokens.json"
    return found | (_ids(read_json(listed), listed) if listed.exists() else {})


def _merges_txt(path: Path) -> tuple[tuple[str, str], ...]:
    if not path.exists():
        return ()
    lines = [line for line in _text(path).split("\n") if line and not line.startswith("#version")]
    return _pairs(lines, path)


def _text(path: Path) -> str:
    return read_plain(path, _MAX_TEXT_BYTES).decode("utf-8", "replace")


def _vocabulary_digest(directory: Path, name: str) -> str:
    """Of a vocabulary's file; of tekken.json without what it says beside its tokens, which newer
    versions of the same file have more of."""
    if name != "tekken.json":
        return _digest(directory, name)
    content = read_json(directory / name)
    settings = content.get("config")
    sizes = settings if isinstance(settings, dict) else {}
    return digest_of(
        [content.get("vocab"), sizes.get("pattern"), sizes.get("default_num_special_tokens")]
    )


def _digest(directory: Path, name: str) -> str:
    check_plain(directory.resolve(), directory / name)
    return sha256_file(directory / name)


def _has(directory: Path, name: str) -> bool:
    return (directory / name).exists()
