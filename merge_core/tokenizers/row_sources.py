"""For every model and token of the result: the rows whose mean is the model's row for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from merge_core.errors import RecipeError, did_you_mean
from merge_core.recipes.tokenizer import ModelToken, RowSource, TokenizerSettings, ZeroRow
from merge_core.tokenizers.rows import ABSENT, Rows
from merge_core.tokenizers.union import MergedVocabulary, Vocabulary


@dataclass(frozen=True)
class RowSources:
    """Where rows come from; one column for each model, in the order of `vocabularies`."""

    vocabularies: Mapping[str, tuple[Vocabulary, int]]
    """Each model's tokens, and its number of rows."""
    leader: str
    """The model whose ids the result keeps."""
    base: str | None
    merged: MergedVocabulary
    settings: TokenizerSettings
    named: int
    """Rows of the result, without those that are added as padding."""

    def parts_of(self, reference: str) -> Rows:
        """For each row of the result the rows it is the mean of: a column for each model, -1 none.

        Raises:
            RecipeError: the recipe names a row that is not there.
        """
        column = list(self.vocabularies).index(reference)
        parts = self._fallback.copy()
        own = self._own[:, column]
        keeps = (own != ABSENT) & ~self._forced
        parts[keeps] = ABSENT
        parts[keeps, column] = own[keeps]
        return parts

    @cached_property
    def _own(self) -> Rows:
        """Each model's own row for each row of the result."""
        own = np.full((self.named, len(self.vocabularies)), ABSENT, dtype=np.int64)
        tokens = list(self.merged.ids)
        numbers = np.fromiter(self.merged.ids.values(), np.int64, len(tokens))
        unnamed = np.ones(self.named, dtype=bool)
        unnamed[numbers] = False
        for column, (vocabulary, rows) in enumerate(self.vocabularies.values()):
            ids = vocabulary.ids
            own[numbers, column] = [ids.get(token, ABSENT) for token in tokens]
            free = np.ones(max(rows, self.named), dtype=bool)
            free[list(ids.values())] = False
            free[rows:] = False
            same = np.flatnonzero(unnamed & free[: self.named])
            own[same, column] = same
        return own

    @cached_property
    def _fallback(self) -> Rows:
        """The rows that stand in where a model has none: one model's, several, or none (zeros)."""
        fallback = self._own.copy()
        references = list(self.vocabularies)
        unnamed = np.ones(self.named, dtype=bool)
        unnamed[list(self.merged.ids.values())] = False
        _prefer(fallback, references.index(self.leader), unnamed)
        if self.base is not None:
            _prefer(fallback, references.index(self.base), ~unnamed)
        for token, setting in self.settings.tokens.items():
            number = self.merged.ids[token]
            if setting.source is not None:
                self._set_from_recipe(fallback[number], token, setting.source)
            elif bool((fallback[number] == ABSENT).all()):
                raise RecipeError(
                    "no model has this token",
                    where=f"tokenizer.tokens.{token}",
                    mend="name the row it starts from: source: {kind: model_token, model: ...,"
                    " token: ...}, or {kind: zero}",
                )
        return fallback

    @cached_property
    def _forced(self) -> NDArray[np.bool_]:
        forced = np.zeros(self.named, dtype=bool)
        forced[[self.merged.ids[t] for t, each in self.settings.tokens.items() if each.force]] = (
            True
        )
        return forced

    def _set_from_recipe(self, row: Rows, token: str, source: RowSource) -> None:
        row[:] = ABSENT
        if isinstance(source, ZeroRow):
            return
        where = f"tokenizer.tokens.{token}.source"
        if isinstance(source, ModelToken):
            model, text, number = source.model, source.token, source.token_id
        else:
            model, text, number = source, token, None
        vocabulary, rows = self.vocabularies[model]
        if text is not None:
            number = vocabulary.ids.get(text)
            if number is None:
                known = did_you_mean(text, vocabulary.ids) if len(vocabulary.ids) < 1000 else ""
                raise RecipeError(
                    f"'{model}' has no row for the token {text!r}", where=where, mend=known or None
                )
        assert number is not None
        if number >= rows:
            raise RecipeError(f"'{model}' has {rows:,} rows; there is no id {number}", where=where)
        row[list(self.vocabularies).index(model)] = number


def _prefer(parts: Rows, column: int, where: NDArray[np.bool_]) -> None:
    """Among some rows, let a column stand alone wherever it has a row."""
    chosen = where & (parts[:, column] != ABSENT)
    kept = parts[chosen, column]
    parts[chosen] = ABSENT
    parts[chosen, column] = kept
