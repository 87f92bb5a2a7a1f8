"""Tokenizers as their files define them, compared by meaning: which id stands for which token,
how text is split. Formatting, padding settings and file-format versions make no difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from merge_core.checkpoints.checkpoint import read_json
from merge_core.errors import CheckpointError
from merge_core.files.digests import canonical_json, digest_of, sha256_file
from merge_core.files.names import SENTENCEPIECE_FILES
from merge_core.files.untrusted import check_plain, read_plain
from merge_core.findings import Finding, counted, some

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    *SENTENCEPIECE_FILES,
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
MEND = (
    "say in the recipe whose tokens the result has: `tokenizer_source: union` keeps every token of"
    " every model, `tokenizer_source: base` (or a model's reference) those of one; or leave this"
    " model out"
)


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
    """sha256 of each binary tokenizer file that is there."""
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
        name: _digest(directory, name) for name in SENTENCEPIECE_FILES if _has(directory, name)
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


def compare_tokenizers(
    base_name: str,
    base: Tokenizer | None,
    name: str,
    model: Tokenizer | None,
    *,
    may_differ: bool = False,
) -> list[Finding]:
    """What stands in the way of using the base's tokenizer for a merge with this model.

    `may_differ`: the recipe merges the vocabularies, so every difference is only information; not
    so a tokenizer that is missing, since the model is then taken to have the base's.
    """
    if base is None or model is None:
        return _one_is_missing(base_name, base, name, model)
    if base.ids is not None and model.ids is not None:
        findings = _compare_known(base_name, base, name, model)
    else:
        findings = _compare_bytes(base_name, base, name, model)
    if may_differ:
        return [
            finding.model_copy(update={"severity": "info", "mend": None}) for finding in findings
        ]
    return findings


def _compare_known(base_name: str, base: Tokenizer, name: str, model: Tokenizer) -> list[Finding]:
    assert base.ids is not None
    assert model.ids is not None
    findings = _compare_ids(
        base_name, {**base.beside, **base.ids}, name, {**model.beside, **model.ids}
    )
    if any(finding.severity == "error" for finding in findings):
        return findings
    splitting = _compare_splitting(base, model)
    if splitting:
        findings.append(
            Finding(
                severity="error",
                code="tokenizer-splits-differently",
                subject=name,
                message=f"its tokenizer has the tokens of {base_name} but splits text differently:"
                f" {'; '.join(splitting)}",
                mend=MEND,
                where=model.origin,
            )
        )
    flags = [
        token
        for token in base.added
        if model.added.get(token, base.added[token]) != base.added[token]
    ]
    if flags:
        findings.append(_detail(name, f"added tokens have other flags: {some(map(repr, flags))}"))
    if base.origin == model.origin and base.framing != model.framing:
        findings.append(_framing_finding(base_name, base, name, model))
    return findings


def _framing_finding(base_name: str, base: Tokenizer, name: str, model: Tokenizer) -> Finding:
    if base.framing["post_processor"] == model.framing["post_processor"]:
        return _detail(name, f"its decoder differs from that of {base_name}")
    return Finding(
        severity="warning",
        code="tokenizer-frames-differently",
        subject=name,
        message=f"its tokenizer puts other special tokens around a text than that of {base_name}"
        " (post_processor)",
        mend="the merged model takes the base's; check whether prompts begin with the token that"
        " the models were trained with",
        where="tokenizer.json",
    )


def _compare_ids(
    base_name: str, base: Mapping[str, int], name: str, model: Mapping[str, int]
) -> list[Finding]:
    moved = [token for token in base if token in model and model[token] != base[token]]
    absent = [token for token in base if token not in model]
    new = [token for token in model if token not in base]
    taken = set(base.values())
    clashing = [token for token in new if model[token] in taken]
    if moved or clashing:
        examples = [f"{token!r} is id {model[token]}, there {base[token]}" for token in moved[:2]]
        meaning = {number: token for token, number in base.items()}
        examples += [
            f"id {model[token]} is {token!r}, there {meaning[model[token]]!r}"
            for token in clashing[:2]
        ]
        return [
            Finding(
                severity="error",
                code="vocabulary-differs",
                subject=name,
                message=f"its vocabulary is not that of {base_name}:"
                f" {counted(len(moved), 'token')} with another id, {len(new):,} only here,"
                f" {len(absent):,} only there (for example {'; '.join(examples[:3])})",
                mend=MEND,
                where="tokenizer",
            )
        ]
    findings = []
    if new:
        tokens = some(f"{token!r} (id {model[token]})" for token in new)
        findings.append(
            Finding(
                severity="error",
                code="tokens-added",
                subject=name,
                message=f"it has {counted(len(new), 'token')} that {base_name} lacks: {tokens}",
                mend=f"the merged model would not know them: {MEND}",
                where="tokenizer",
            )
        )
    if absent:
        tokens = some(f"{token!r} (id {base[token]})" for token in absent)
        findings.append(
            Finding(
                severity="warning",
                code="tokens-missing",
                subject=name,
                message=f"it lacks {counted(len(absent), 'token')} that {base_name} has: {tokens};"
                " its embeddings of them were not trained",
                mend="nothing, if prompts do not use these tokens",
                where="tokenizer",
            )
        )
    return findings


def _compare_splitting(base: Tokenizer, model: Tokenizer) -> list[str]:
    differences = []
    if base.merges != model.merges:
        both = zip(base.merges, model.merges, strict=False)
        changed = sum(a != b for a, b in both) + abs(len(base.merges) - len(model.merges))
        at = next(
            (rank for rank, pair in enumerate(model.merges) if pair != _get(base.merges, rank)),
            len(model.merges),
        )
        differences.append(
            f"{changed:,} of {max(len(base.merges), len(model.merges)):,} merges,"
            f" the first at rank {at}"
        )
    if base.scores != model.scores:
        differences.append("the scores of its pieces")
    if base.origin == model.origin:
        for step in base.steps:
            if base.steps[step] != model.steps.get(step):
                differences.append(
                    f"{step} {_brief(model.steps.get(step))}, there {_brief(base.steps[step])}"
                )
    return differences


def _compare_bytes(base_name: str, base: Tokenizer, name: str, model: Tokenizer) -> list[Finding]:
    shared = [file for file in base.files if file in model.files]
    if not shared:
        return [
            Finding(
                severity="warning",
                code="tokenizer-not-comparable",
                subject=name,
                message=f"its tokenizer is in {model.origin}, that of {base_name} in {base.origin};"
                " nothing here can compare the two",
                mend="save both with the same version of transformers (AutoTokenizer, then"
                " save_pretrained), which writes tokenizer.json",
            )
        ]
    if all(base.files[file] == model.files[file] for file in shared):
        # One vocabulary, so what was added to it is all that can differ.
        return _compare_ids(base_name, base.beside, name, model.beside)
    return [
        Finding(
            severity="error",
            code="vocabulary-differs",
            subject=name,
            message=f"its {shared[0]} is not that of {base_name}",
            mend=MEND,
            where=shared[0],
        )
    ]


def _one_is_missing(
    base_name: str, base: Tokenizer | None, name: str, model: Tokenizer | None
) -> list[Finding]:
    if base is None and model is None:
        return []
    without, other = (name, base_name) if model is None else (base_name, name)
    return [
        Finding(
            severity="warning",
            code="tokenizer-missing",
            subject=name,
            message=f"{without} has no tokenizer files, so they cannot be compared with those of"
            f" {other}",
            mend=f"copy the tokenizer files that {without} was trained with into its directory",
        )
    ]


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


def _digest(directory: Path, name: str) -> str:
    check_plain(directory.resolve(), directory / name)
    return sha256_file(directory / name)


def _has(directory: Path, name: str) -> bool:
    return (directory / name).exists()


def _get(merges: tuple[tuple[str, str], ...], rank: int) -> tuple[str, str] | None:
    return merges[rank] if rank < len(merges) else None


def _brief(value: Any) -> str:
    text = canonical_json(value).decode()
    return text if len(text) <= 80 else text[:77] + "..."


def _detail(name: str, message: str) -> Finding:
    return Finding(severity="info", code="tokenizer-details-differ", subject=name, message=message)
