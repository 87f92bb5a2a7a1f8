"""A union has every token of every model once, at ids that depend on the models' order alone; and
every model has a row for each of them, from where the rules say.
"""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_core.errors import CheckpointError, RecipeError
from merge_core.recipes.tokenizer import TokenizerSettings
from merge_core.tokenizers.row_sources import RowSources
from merge_core.tokenizers.tokenizer import Tokenizer
from merge_core.tokenizers.union import (
    PLAIN,
    MergedVocabulary,
    Vocabulary,
    difference,
    merged_vocabulary,
    vocabulary_of,
)

TOKENS = [*"abcdefghij", "<x>", "<y>", "<z>"]
SPECIAL = {**PLAIN, "special": True, "normalized": False}


@st.composite
def vocabularies(draw: st.DrawFn) -> list[tuple[Vocabulary, int]]:
    """Two to four models' tokens in any order, some with gaps, and rows beyond the tokens."""
    found = []
    for _ in range(draw(st.integers(2, 4))):
        tokens = draw(st.lists(st.sampled_from(TOKENS), min_size=1, unique=True))
        numbers = list(range(len(tokens) + draw(st.integers(0, 2))))
        ids = dict(zip(tokens, sorted(draw(st.permutations(numbers))[: len(tokens)]), strict=True))
        added = {token: SPECIAL for token in ids if token.startswith("<")}
        rows = max(ids.values()) + 1 + draw(st.integers(0, 3))
        found.append((Vocabulary(ids, added), rows))
    return found


def union_of(models: list[tuple[Vocabulary, int]]) -> MergedVocabulary:
    first, *others = [vocabulary for vocabulary, _ in models]
    return merged_vocabulary(first, others, (), union=True)


@given(vocabularies())
def test_every_token_is_in_the_union_once_and_the_leading_ids_stay(
    models: list[tuple[Vocabulary, int]],
) -> None:
    merged = union_of(models)
    leading = models[0][0]
    assert set(merged.ids) == {token for vocabulary, _ in models for token in vocabulary.ids}
    assert len(set(merged.ids.values())) == len(merged.ids)
    assert {token: merged.ids[token] for token in leading.ids} == leading.ids
    assert [merged.ids[token] for token in merged.new] == list(range(leading.size, merged.size))


@given(vocabularies(), st.randoms(use_true_random=False))
def test_the_union_does_not_depend_on_the_order_of_tokens_in_a_file(
    models: list[tuple[Vocabulary, int]], chance: random.Random
) -> None:
    shuffled = []
    for vocabulary, rows in models:
        items = list(vocabulary.ids.items())
        chance.shuffle(items)
        shuffled.append((Vocabulary(dict(items), vocabulary.added), rows))
    assert union_of(shuffled) == union_of(models)
    assert list(union_of(shuffled).new) == list(union_of(models).new)


def test_new_tokens_follow_in_the_order_of_the_models_then_of_their_ids() -> None:
    base = Vocabulary({"a": 0, "b": 1}, {})
    one = Vocabulary({"a": 0, "z": 2, "y": 1}, {})
    two = Vocabulary({"x": 0, "y": 1, "a": 2}, {})
    merged = merged_vocabulary(base, [one, two], ["new"], union=True)
    assert merged.ids == {"a": 0, "b": 1, "y": 2, "z": 3, "x": 4, "new": 5}


def test_an_added_token_keeps_the_flags_of_the_first_model_that_has_it() -> None:
    base = Vocabulary({"a": 0}, {})
    one = Vocabulary({"<x>": 0, "<y>": 1}, {"<x>": SPECIAL})
    two = Vocabulary({"<x>": 0, "<y>": 1}, {"<x>": PLAIN, "<y>": SPECIAL})
    merged = merged_vocabulary(base, [one, two], ["<new>"], union=True)
    assert merged.new == {"<x>": SPECIAL, "<y>": None, "<new>": PLAIN}


def test_without_a_union_only_the_recipes_tokens_are_added() -> None:
    one = Vocabulary({"<x>": 0, "b": 1}, {"<x>": SPECIAL})
    merged = merged_vocabulary(Vocabulary({"a": 0}, {}), [one], ["<x>"], union=False)
    assert merged.ids == {"a": 0, "<x>": 1}
    assert merged.new == {"<x>": SPECIAL}


def rows_by_hand(
    models: list[tuple[Vocabulary, int]], base: int | None, merged: MergedVocabulary, number: int
) -> list[set[tuple[int, int]]]:
    """For each model the rows that row `number` of the result is the mean of, from the rules."""
    names = [token for token, other in merged.ids.items() if other == number]
    if not names:  # an id without a token: each model's own unused row, else the leading model's
        return [
            {(index, number)}
            if number < rows and number not in vocabulary.ids.values()
            else {(0, number)}
            for index, (vocabulary, rows) in enumerate(models)
        ]
    (token,) = names
    having = {
        (index, vocabulary.ids[token])
        for index, (vocabulary, _) in enumerate(models)
        if token in vocabulary.ids
    }
    from_base = {pair for pair in having if pair[0] == base}
    return [
        {pair for pair in having if pair[0] == index} or from_base or having
        for index in range(len(models))
    ]


@settings(deadline=None)
@given(vocabularies(), st.booleans(), st.booleans())
def test_every_row_comes_from_where_the_rules_say(
    models: list[tuple[Vocabulary, int]], union: bool, with_base: bool
) -> None:
    first, *others = [vocabulary for vocabulary, _ in models]
    merged = merged_vocabulary(first, others, (), union=union)
    base = len(models) - 1 if with_base else None
    named = max(merged.size, models[0][1])
    sources = RowSources(
        vocabularies={str(index): model for index, model in enumerate(models)},
        leader="0",
        base=None if base is None else str(base),
        merged=merged,
        settings=TokenizerSettings(),
        named=named,
    )
    found = [sources.parts_of(str(index)) for index in range(len(models))]
    for number in range(named):
        expected = rows_by_hand(models, base, merged, number)
        for parts, pairs in zip(found, expected, strict=True):
            assert {(i, row) for i, row in enumerate(parts[number].tolist()) if row >= 0} == pairs


def sources_with(**tokens: Any) -> RowSources:
    """Two models, of which only the second has `<x>`; `b` is in both."""
    one, two = Vocabulary({"a": 0, "b": 1}, {}), Vocabulary({"b": 0, "<x>": 1}, {})
    block = TokenizerSettings.model_validate({"tokens": {f"<{k}>": v for k, v in tokens.items()}})
    merged = merged_vocabulary(one, [two], block.tokens, union=True)
    return RowSources({"one": (one, 4), "two": (two, 2)}, "one", "one", merged, block, merged.size)


def row_of(sources: RowSources, model: str, token: str) -> list[int]:
    row: list[int] = sources.parts_of(model)[sources.merged.ids[token]].tolist()
    return row


def test_a_token_that_a_model_lacks_takes_the_row_that_the_recipe_names() -> None:
    sources = sources_with(x={"source": {"kind": "model_token", "model": "one", "token": "b"}})
    assert row_of(sources, "one", "<x>") == [1, -1]
    assert row_of(sources, "two", "<x>") == [-1, 1]


def test_force_replaces_the_row_of_the_models_that_have_the_token() -> None:
    source = {"kind": "model_token", "model": "one", "token_id": 3}
    sources = sources_with(x={"source": source, "force": True})
    assert row_of(sources, "one", "<x>") == row_of(sources, "two", "<x>") == [3, -1]


def test_zero_gives_a_row_of_zeros_to_those_that_lack_the_token() -> None:
    sources = sources_with(x={"source": {"kind": "zero"}})
    assert row_of(sources, "one", "<x>") == [-1, -1]
    assert row_of(sources, "two", "<x>") == [-1, 1]


def test_a_reference_names_the_models_own_row_for_the_token() -> None:
    assert row_of(sources_with(x={"source": "two"}), "one", "<x>") == [-1, 1]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("one", "'one' has no row for the token '<x>'"),
        ({"kind": "model_token", "model": "one", "token": "c"}, "no row for the token 'c'"),
        ({"kind": "model_token", "model": "one", "token_id": 4}, "has 4 rows; there is no id 4"),
    ],
)
def test_a_row_that_is_not_there_is_refused(source: object, words: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        sources_with(x={"source": source}).parts_of("one")
    assert caught.value.where == "tokenizer.tokens.<x>.source"


def test_a_new_token_needs_a_source() -> None:
    with pytest.raises(RecipeError, match="no model has this token") as caught:
        sources_with(new={}).parts_of("one")
    assert "kind: zero" in str(caught.value)


def test_tokens_beyond_a_models_rows_are_not_its_own() -> None:
    tokenizer = Tokenizer("tokenizer.json", {"a": 0, "b": 1, "<x>": 2}, (), (), {"<x>": {}}, {}, {})
    vocabulary = vocabulary_of(tokenizer, 2, "model")
    assert (vocabulary.ids, vocabulary.rowless) == ({"a": 0, "b": 1}, ("<x>",))


def test_two_tokens_with_one_id_are_refused() -> None:
    tokenizer = Tokenizer("tokenizer.json", {"a": 0, "b": 1, "c": 1}, (), (), {}, {}, {})
    with pytest.raises(CheckpointError, match="'b' and 'c' have the same id, 1"):
        vocabulary_of(tokenizer, 2, "model")


def test_a_tokenizer_without_tokenizer_json_is_refused_with_a_way_out() -> None:
    tokenizer = Tokenizer("vocab.txt", {"a": 0}, (), (), {}, {}, {})
    with pytest.raises(CheckpointError, match=r"has vocab\.txt but no tokenizer\.json") as caught:
        vocabulary_of(tokenizer, 2, "model")
    assert "save_pretrained" in str(caught.value)


def test_a_difference_counts_and_shows_the_first_few() -> None:
    ours = {token: number for number, token in enumerate("abdefg")}
    theirs = {token: number for number, token in enumerate("abcd")}
    found = difference(ours, theirs, "base")
    assert found is not None
    assert found.words == (
        "3 tokens only here: 'e' (id 3), 'f' (id 4), 'g' (id 5);"
        " 1 token only in base: 'c' (id 2); 1 token with another id: 'd' is 2, there 3"
    )
    assert found.loses
    missing = difference({"a": 0}, theirs, "base")
    assert missing is not None
    assert not missing.loses
    assert difference(theirs, dict(theirs), "base") is None


def test_four_vocabularies_of_a_real_models_size_are_planned_within_seconds() -> None:
    tokens = [f"token{number}" for number in range(150_000)]
    models = {
        str(index): (Vocabulary({t: i for i, t in enumerate(tokens[index * 100 :])}, {}), 150_000)
        for index in range(4)
    }
    first, *others = [vocabulary for vocabulary, _ in models.values()]
    started = time.process_time()
    merged = merged_vocabulary(first, others, (), union=True)
    sources = RowSources(models, "0", "0", merged, TokenizerSettings(), 150_000)
    for name in models:
        sources.parts_of(name)
    assert time.process_time() - started < 3
