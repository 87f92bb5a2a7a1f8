"""A tokenizer that lies beside an adapter, against that of its base.

Trainers save it there. The result has the base's: what the adapter's knows more, its rows of single
tokens and its form of a prompt, would be lost without a word.
"""

from __future__ import annotations

from merge_core.errors import CheckpointError
from merge_core.files.digests import digest_of
from merge_core.findings import Finding, counted, some
from merge_core.records import SourceCheckpoint
from merge_core.tokenizers.prompting import Prompting, read_prompting
from merge_core.tokenizers.tokenizer import Tokenizer, read_tokenizer, tokenizer_contents
from merge_core.verification.kinship import Subject


def own_tokenizer(subject: Subject, base: Tokenizer | None) -> list[Finding]:
    """A warning where the tokenizer that came with an adapter says otherwise than its base's.

    Args:
        base: the tokenizer of the base, and so of the result.
    """
    adapter = subject.source.adapter
    if adapter is None:
        return []
    directory = subject.checkpoint.directory
    try:
        own = read_tokenizer(adapter.directory)
        prompting = read_prompting(adapter.directory, {})
        differences = [
            *_tokens(own, base),
            *_prompts(prompting, read_prompting(directory, subject.checkpoint.config)),
        ]
    except CheckpointError:  # nothing of these files gets into the result
        return []
    if not differences:
        return []
    return [
        Finding(
            severity="warning",
            code="adapter-has-its-tokenizer",
            subject=subject.name,
            message=f"the tokenizer beside the adapter {'; it '.join(differences)}; the result has"
            " the base's",
            mend="if the adapter needs it, copy the base, put the adapter's tokenizer and chat"
            f" template files into the copy, and write COPY+{adapter.reference}",
            where=str(adapter.directory),
        )
    ]


def own_tokenizer_digest(source: SourceCheckpoint) -> list[str]:
    """What a report depends on beside an adapter's weights: nothing where no tokenizer is."""
    if source.adapter is None:
        return []
    directory = source.adapter.directory
    try:
        contents = sorted(tokenizer_contents(directory))
        template = read_prompting(directory, {}).chat_template
    except CheckpointError:
        return []
    return [digest_of([contents, template])] if contents or template else []


def _tokens(own: Tokenizer | None, base: Tokenizer | None) -> list[str]:
    if own is None or base is None or own.ids is None or base.ids is None:
        return []
    ours, theirs = {**own.beside, **own.ids}, {**base.beside, **base.ids}
    new = {token: number for token, number in ours.items() if token not in theirs}
    moved = {token: ours[token] for token in ours if theirs.get(token, ours[token]) != ours[token]}
    found = []
    for tokens, what in ((new, "that the base lacks"), (moved, "with another id")):
        if tokens:
            shown = some(f"{token!r} (id {number})" for token, number in tokens.items())
            found.append(f"has {counted(len(tokens), 'token')} {what}: {shown}")
    return found


def _prompts(own: Prompting, base: Prompting) -> list[str]:
    found = []
    if own.chat_template is not None and own.chat_template != base.chat_template:
        found.append("has another chat template")
    for kind in ("bos", "eos"):
        text = own.texts.get(kind)
        if text is not None and text != base.texts.get(kind, text):
            found.append(f"has {text!r} as its {kind} token, the base {base.texts[kind]!r}")
    return found
