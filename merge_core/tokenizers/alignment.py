"""Checkpoints seen with one vocabulary: every embedding and head with its rows at the result's ids.

A token that a model lacks takes the row that the recipe names for it, else that of the only model
which has it, else the base's, else the average over the models that have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.errors import CompatibilityError
from merge_core.findings import some
from merge_core.recipes.recipe import Recipe
from merge_core.recipes.tokenizer import UNION, TokenizerSettings
from merge_core.records import SourceCheckpoint
from merge_core.tensors.dtypes import MERGEABLE
from merge_core.tensors.inputs import TensorInput
from merge_core.tokenizers.comparison import MEND
from merge_core.tokenizers.embeddings import Tables, vocabulary_tables
from merge_core.tokenizers.files import tokenizer_files
from merge_core.tokenizers.merged import MergedTokenizer, lost_tokens
from merge_core.tokenizers.row_sources import RowSources
from merge_core.tokenizers.rows import ABSENT, GatheredRows, Rows, row_map
from merge_core.tokenizers.tokenizer import Tokenizer, read_tokenizer, tokenizer_contents
from merge_core.tokenizers.union import (
    Difference,
    MergedVocabulary,
    Vocabulary,
    difference,
    merged_vocabulary,
    vocabulary_of,
)


def align_vocabularies(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    sources: Mapping[str, SourceCheckpoint],
) -> tuple[Mapping[str, Checkpoint], MergedTokenizer | None]:
    """The checkpoints with one vocabulary, and the result's tokenizer; None when nothing changes.

    Args:
        checkpoints: one for each of `recipe.references()`.
        sources: the same, for the digests of their files.

    Raises:
        CompatibilityError: vocabularies differ and the recipe does not say what to do.
        CheckpointError: a tokenizer whose tokens cannot be read.
        RecipeError: the recipe names a row that is not there, or none for a token that is new.
    """
    settings = recipe.vocabulary
    asks = settings and (settings.tokens or settings.pad_to_multiple_of is not None)
    tables = {name: vocabulary_tables(checkpoints[name]) for name in recipe.references()}
    places = {name: checkpoints[name].directory for name in tables}
    files = {name: tokenizer_contents(places[name], sources[name].files) for name in tables}
    heights = {table.rows for table in tables.values() if table is not None}
    if len(set(files.values())) == 1 and len(heights) <= 1 and not asks:
        return checkpoints, None
    one_of_each = {key: places[name] for name, key in files.items()}
    read = {key: read_tokenizer(place) for key, place in one_of_each.items()}
    tokenizers = {name: read[key] for name, key in files.items()}
    if settings is None:
        _refuse_differences(recipe, tokenizers, tables)
        return checkpoints, None
    is_one = not any(
        _differs(recipe.donor, each, tokenizers, tables)
        or _incomparable(tokenizers[recipe.donor], tokenizers[each])
        for each in tokenizers
    )
    if is_one and not asks:
        return checkpoints, None
    known = {reference: table for reference, table in tables.items() if table is not None}
    for reference in tables.keys() - known.keys():
        raise CompatibilityError(
            "it has no embedding with a row for each token, so its vocabulary cannot be merged",
            where=reference,
            mend="leave out tokenizer and tokenizer_source" if is_one else "leave this model out",
        )
    return _aligned(recipe, settings, checkpoints, tokenizers, known)


def _aligned(
    recipe: Recipe,
    settings: TokenizerSettings,
    checkpoints: Mapping[str, Checkpoint],
    tokenizers: Mapping[str, Tokenizer | None],
    tables: Mapping[str, Tables],
) -> tuple[Mapping[str, Checkpoint], MergedTokenizer | None]:
    vocabularies = _vocabularies(recipe, tokenizers, tables)
    leader = recipe.tokenizer_donor
    leading = vocabularies[leader]
    others = [each for reference, each in vocabularies.items() if reference != leader]
    merged = merged_vocabulary(leading, others, settings.tokens, union=settings.source == UNION)
    named, padding = _extent(merged, settings, tables[leader])
    sources = RowSources(
        vocabularies={
            reference: (vocabulary, tables[reference].rows)
            for reference, vocabulary in vocabularies.items()
        },
        leader=leader,
        base=recipe.base_model if recipe.base_model in vocabularies else None,
        merged=merged,
        settings=settings,
        named=named,
    )
    shared = set.intersection(*(set(table.names) for table in tables.values()))
    ordered = {reference: checkpoints[reference] for reference in vocabularies}
    views = {
        reference: _view(reference, ordered, shared, sources.parts_of(reference), padding)
        for reference in ordered
    }
    moved = None
    if leader != recipe.donor:
        donor = vocabularies[recipe.donor].ids
        moved = {
            number: merged.ids[token] for token, number in donor.items() if token in merged.ids
        }
        _refuse_lost(recipe, checkpoints, donor, moved)
    tokenizer = MergedTokenizer(
        files=tokenizer_files(checkpoints[leader].directory, leading, merged),
        vocab_size=named + padding,
        moved=moved,
        leading_config=checkpoints[leader].config,
    )
    return MappingProxyType({**checkpoints, **views}), tokenizer


def _refuse_lost(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    donor: Mapping[str, int],
    moved: Mapping[int, int],
) -> None:
    """Refuse a vocabulary without a token that the donor's config needs: that of an image, say."""
    leader = recipe.tokenizer_donor
    called = {number: token for token, number in donor.items()}
    named = lost_tokens(checkpoints[recipe.donor].config, checkpoints[leader].config, moved)
    lost = {key: number for key, number in named.items() if number in called}
    if not lost:
        return
    shown = some(f"{key} {number} ({called[number]!r})" for key, number in lost.items())
    raise CompatibilityError(
        f"its config.json names tokens that the vocabulary of {leader} lacks: {shown}",
        where=recipe.donor,
        mend="keep them: `tokenizer_source: union`, or `tokenizer_source: base`",
    )


def _view(
    reference: str,
    checkpoints: Mapping[str, Checkpoint],
    names: set[str],
    parts: Rows,
    padding: int,
) -> Checkpoint:
    """A checkpoint whose tables have the result's rows; tables that have them stay as they are."""
    checkpoint = checkpoints[reference]
    order = list(checkpoints)
    used = [column for column in range(parts.shape[1]) if bool((parts[:, column] != ABSENT).any())]
    own = order.index(reference)
    unmoved = used == [own] and not padding and bool((parts[:, own] == np.arange(len(parts))).all())
    rows = row_map(np.ascontiguousarray(parts[:, used]), padding)
    tensors: dict[str, TensorInput] = dict(checkpoint.tensors)
    for name in names:
        before = checkpoint.tensors[name]
        if unmoved and before.shape[0] == rows.total:
            continue
        found = tuple(checkpoints[order[column]].tensors[name] for column in used)
        for column, source in zip(used, found, strict=True):
            if source.dtype not in MERGEABLE:
                raise CompatibilityError(
                    f"{name} is stored as {source.dtype}, whose rows cannot be rearranged",
                    where=order[column],
                    mend="use the unquantised checkpoint",
                )
        shape = (rows.total, *before.shape[1:])
        tensors[name] = GatheredRows(name, before.dtype, shape, found, rows)
    return replace(checkpoint, tensors=MappingProxyType(tensors))


def _extent(
    merged: MergedVocabulary, settings: TokenizerSettings, table: Tables
) -> tuple[int, int]:
    """Number of rows that are tokens' or the leading model's own, and of rows to add to them."""
    if settings.pad_to_multiple_of is None:
        return max(merged.size, table.rows), 0
    return merged.size, -merged.size % settings.pad_to_multiple_of


def _vocabularies(
    recipe: Recipe, tokenizers: Mapping[str, Tokenizer | None], tables: Mapping[str, Tables]
) -> dict[str, Vocabulary]:
    """Each model's tokens; of a model without a tokenizer the donor's, or the chosen one's."""
    usual = next(
        (name for name in (recipe.donor, recipe.tokenizer_donor) if tokenizers[name]), None
    )
    found = {}
    for reference, tokenizer in tokenizers.items():
        if tokenizer is None:
            if usual is None or tables[reference].rows != tables[usual].rows:
                raise CompatibilityError(
                    "it has no tokenizer files, so its tokens are not known",
                    where=reference,
                    mend="copy the tokenizer files that it was trained with into its directory",
                )
            tokenizer = tokenizers[usual]
            assert tokenizer is not None
        found[reference] = vocabulary_of(tokenizer, tables[reference].rows, reference)
    return found


def _refuse_differences(
    recipe: Recipe,
    tokenizers: Mapping[str, Tokenizer | None],
    tables: Mapping[str, Tables | None],
) -> None:
    """Refuse a model whose rows cannot be combined with the donor's one by one.

    A model that lacks some of the donor's tokens, at the same ids otherwise, loses nothing.
    """
    for reference in tokenizers:
        found = _differs(recipe.donor, reference, tokenizers, tables)
        if found and found.loses:
            raise CompatibilityError(found.words, where=reference, mend=MEND)


def _differs(
    donor: str,
    reference: str,
    tokenizers: Mapping[str, Tokenizer | None],
    tables: Mapping[str, Tables | None],
) -> Difference | None:
    """How a model's tokens, or the number of its rows, differ from the donor's."""
    ours, theirs = tokenizers[reference], tokenizers[donor]
    table, first = tables[reference], tables[donor]
    found = _difference(theirs, ours, donor)
    if found:
        found = replace(found, words=f"its vocabulary is not that of {donor}: {found.words}")
    if not (found and found.loses) and table and first and table.rows != first.rows:
        words = f"its embeddings have {table.rows:,} rows, those of {donor} {first.rows:,}"
        return Difference(words, loses=True)
    return found


def _incomparable(donor: Tokenizer | None, model: Tokenizer | None) -> bool:
    """Whether nothing says if two tokenizers have the same tokens: one is in an unread form."""
    if donor is None or model is None or (donor.ids is not None and model.ids is not None):
        return False
    return not donor.files.keys() & model.files.keys()


def _difference(donor: Tokenizer | None, model: Tokenizer | None, name: str) -> Difference | None:
    if donor is None or model is None or donor is model:
        return None
    if donor.ids is not None and model.ids is not None:
        return difference(model.ids, donor.ids, name)
    shared = [file for file in donor.files if file in model.files]
    unlike = [file for file in shared if donor.files[file] != model.files[file]]
    return Difference(f"its {unlike[0]} is another", loses=True) if unlike else None
