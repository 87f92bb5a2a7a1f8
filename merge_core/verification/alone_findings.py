"""Warnings that one checkpoint's own files give, without comparing it: weights that the merge does
not take, names that only a training wrapper uses, modules whose weights are apart, tokens that no
row stands for."""

from __future__ import annotations

from merge_core.checkpoints.companion_files import weights_of_modules
from merge_core.findings import Finding, counted, printable, some
from merge_core.tokenizers.embeddings import vocabulary_tables
from merge_core.tokenizers.tokenizer import Tokenizer
from merge_core.verification.kinship import Subject


def alone_findings(subject: Subject, *, is_donor: bool) -> list[Finding]:
    """What a user should know of one checkpoint.

    Args:
        is_donor: config and companion files of the result come from it.
    """
    found = [*_unnamed_weights(subject), *_wrapped_names(subject)]
    return [*found, *_modules_left_out(subject)] if is_donor else found


def _unnamed_weights(subject: Subject) -> list[Finding]:
    """Weight files that lie beside a checkpoint's own, and are left alone."""
    unnamed = subject.checkpoint.unnamed
    if not unnamed:
        return []
    return [
        Finding(
            severity="warning",
            code="weights-left-over",
            subject=subject.name,
            message=f"{counted(len(unnamed), 'weight file')} beside it that its index does not"
            f" name: {some(map(printable, unnamed))}; the model is what the index names, as"
            " transformers reads it",
            mend="nothing, if they are left over from an earlier save",
            where=unnamed[0],
        )
    ]


def _wrapped_names(subject: Subject) -> list[Finding]:
    """A training wrapper's words in the tensors' names."""
    words = subject.checkpoint.wrapper
    if not words:
        return []
    return [
        Finding(
            severity="warning",
            code="names-wrapped",
            subject=subject.name,
            message=f"a training wrapper put {printable(words)} into its tensors' names; they are"
            " read without it, and the result has none of it",
            mend="nothing for the merge; but transformers finds no weights in this directory: to"
            f" evaluate or serve it, {how_to_unwrap(subject.name)}",
        )
    ]


def how_to_unwrap(name: str) -> str:
    """How a checkpoint is made whose tensors have the names that transformers looks for."""
    return (
        "merge it alone by passthrough (`merge_method: passthrough`,"
        f" `models: [{{model: {name}}}]`) and use the result"
    )


def _modules_left_out(subject: Subject) -> list[Finding]:
    """Modules of a sentence encoder that have weights of their own, which no merge takes."""
    apart = weights_of_modules(subject.checkpoint.directory)
    if not apart:
        return []
    first = apart[0]
    module = first.rpartition("/")[0]
    modules = some(dict.fromkeys(each.rpartition("/")[0] for each in apart))
    return [
        Finding(
            severity="warning",
            code="modules-left-out",
            subject=subject.name,
            message=f"modules.json names {modules} with weights apart ({some(apart)}), which are"
            " not merged: the result has no such file, so SentenceTransformer(result) fails",
            mend=f"put them there: cp {subject.name}/{first} RESULT/{module}/ takes this model's;"
            f" or merge {module} of every model by a recipe of its own, and copy its"
            f" {first.rpartition('/')[2]}. Then train or evaluate: the modules were not trained"
            " with the merged weights",
            where="modules.json",
        )
    ]


def tokens_without_rows(subject: Subject, tokenizer: Tokenizer | None) -> list[Finding]:
    """Tokens of a model's tokenizer whose ids lie beyond the rows of its embeddings."""
    tables = vocabulary_tables(subject.checkpoint)
    if tables is None or tokenizer is None or tokenizer.ids is None:
        return []
    beyond = {token: number for token, number in tokenizer.ids.items() if number >= tables.rows}
    if not beyond:
        return []
    shown = some(f"{token!r} (id {number})" for token, number in beyond.items())
    return [
        Finding(
            severity="warning",
            code="tokens-without-rows",
            subject=subject.name,
            message=f"its embeddings have {tables.rows:,} rows, and its tokenizer"
            f" {counted(len(beyond), 'token')} beyond them: {shown}; a prompt that uses one fails,"
            " and `tokenizer_source` takes out those for which no model has a row",
            mend="nothing, if prompts do not use these tokens; else give them rows, then train:"
            f" model.resize_token_embeddings({max(beyond.values()) + 1})",
            where="tokenizer",
        )
    ]
