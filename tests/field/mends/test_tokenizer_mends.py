"""Mends of tokenizers and prompts: other tokens, other files, another template."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.field.mends.situations import (
    PLAN,
    VERIFY,
    Situation,
    on_base,
    recipe,
    rewrite,
    situations,
)
from tests.support.followed_mends import Advice, Shell, Step

pytestmark = pytest.mark.slow

LETTERS = "abcdefgh"
CONTENT: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
    "model": {"type": "BPE", "vocab": dict(zip(LETTERS, range(8), strict=True)), "merges": []},
}


def tokenizer(directory: Path, letters: str = LETTERS, **changes: Any) -> None:
    """Write tokenizer.json: one token for each letter."""
    content = copy.deepcopy(CONTENT) | changes
    if "model" not in changes:
        content["model"]["vocab"] = dict(zip(letters, range(len(letters)), strict=True))
    (directory / "tokenizer.json").write_text(json.dumps(content))


def alike(here: Path) -> None:
    """Give every model the same tokenizer."""
    for name in ("base", "a", "b"):
        tokenizer(here / name)


def added(content: str, number: int) -> dict[str, Any]:
    """An added token as tokenizer.json has it."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, "special": True, **flags}


def tokens_with_other_ids(here: Path) -> Iterator[Step]:
    alike(here)
    tokenizer(here / "a", "badcfehg")
    yield VERIFY
    recipe(here, tokenizer_source="union")
    yield VERIFY


def tokens_with_other_ids_in_a_plan(here: Path) -> Iterator[Step]:
    alike(here)
    tokenizer(here / "a", "badcfehg")
    yield PLAN
    recipe(here, tokenizer_source="./a")
    yield PLAN


def tokens_that_were_added(here: Path) -> Iterator[Step]:
    alike(here)
    for name in ("base", "b"):
        tokenizer(here / name, "abcdefg")
    yield VERIFY
    on_base(here, tokenizer_source="union")
    yield VERIFY


def added_tokens(here: Path) -> Iterator[Step]:
    for name in ("base", "a", "b"):
        tokenizer(here / name, "abcdefg")
    tokenizer(here / "a", "abcdefgh")
    on_base(here)
    yield VERIFY
    on_base(here, tokenizer_source="base")
    yield VERIFY


def tokens_that_are_missing(here: Path) -> Iterator[Step]:
    alike(here)
    tokenizer(here / "a", "abcdefg")
    on_base(here)
    yield VERIFY
    # Nothing is to be done: the merge is made, with the base's tokens.
    yield (merged, here)


def merged(here: Path) -> str:
    """Merge, and say what the result has of tokens."""
    from flows.cli.program import run

    assert run(["merge", "recipe.yaml", "out"]) == 0
    tokens = json.loads((here / "out/tokenizer.json").read_text())["model"]["vocab"]
    assert set(tokens) == set(LETTERS)
    return "merged"


def text_that_is_split_otherwise(here: Path) -> Iterator[Step]:
    alike(here)
    tokenizer(here / "a", normalizer={"type": "Lowercase"})
    yield VERIFY
    recipe(here, tokenizer_source="./b")
    yield VERIFY


def other_tokens_around_a_text(here: Path) -> Iterator[Step]:
    alike(here)
    framed = {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}
    tokenizer(here / "a", post_processor=framed)
    yield VERIFY
    tokenizer(here / "a")
    yield VERIFY


def files_of_two_kinds(here: Path) -> Iterator[Step]:
    alike(here)
    (here / "a/tokenizer.json").unlink()
    (here / "a/tokenizer.model").write_bytes(b"a sentencepiece model")
    yield VERIFY
    (here / "a/tokenizer.model").unlink()
    tokenizer(here / "a")
    yield VERIFY


def no_tokenizer(here: Path) -> Iterator[Step]:
    alike(here)
    (here / "a/tokenizer.json").unlink()
    yield VERIFY
    tokenizer(here / "a")
    yield VERIFY


def no_tokenizer_to_merge(here: Path) -> Iterator[Step]:
    longer(here)
    (here / "a/tokenizer.json").unlink()
    recipe(here, tokenizer_source="union")
    yield PLAN
    tokenizer(here / "a", LETTERS + "ij")
    yield PLAN


def longer(here: Path) -> None:
    """Give a two tokens more."""
    alike(here)

    def rows(tensors: dict[str, torch.Tensor]) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = torch.cat([tensors[name], torch.randn(2, 8)])

    rewrite(here / "a", rows)
    tokenizer(here / "a", LETTERS + "ij")


def tokens_without_rows(here: Path) -> Iterator[Step]:
    for name in ("base", "a", "b"):
        tokenizer(here / name, LETTERS + "ij")
    yield VERIFY

    def resize(tensors: dict[str, torch.Tensor]) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = torch.cat([tensors[name], torch.randn(2, 8)])

    for name in ("base", "a", "b"):
        rewrite(here / name, resize)
    yield VERIFY


def a_tokenizer_without_a_model(here: Path) -> Iterator[Step]:
    alike(here)
    tokenizer(here / "a", model=None)
    yield VERIFY
    tokenizer(here / "a")
    yield VERIFY


def a_vocabulary_in_an_old_file(here: Path) -> Iterator[Step]:
    longer(here)
    (here / "a/tokenizer.json").unlink()
    (here / "a/vocab.json").write_text(json.dumps(dict(zip("hgfedcbaij", range(10), strict=True))))
    (here / "a/merges.txt").write_text("#version: 0.2\n")
    recipe(here, tokenizer_source="union")
    yield PLAN
    tokenizer(here / "a", "hgfedcbaij")
    yield PLAN


def two_tokens_with_one_id(here: Path) -> Iterator[Step]:
    longer(here)
    tokenizer(here / "a", LETTERS + "ij", added_tokens=[added("<x>", 3)])
    recipe(here, tokenizer_source="union")
    yield PLAN
    tokenizer(here / "a", LETTERS + "i", added_tokens=[added("<x>", 9)])
    yield PLAN


def a_token_that_no_model_has(here: Path) -> Iterator[Step]:
    longer(here)
    tokens: dict[str, Any] = {"<new>": {}}
    recipe(here, tokenizer={"source": "union", "tokens": tokens})
    yield PLAN
    tokens["<new>"] = {"source": {"kind": "model_token", "model": "./a", "token": "c"}}
    recipe(here, tokenizer={"source": "union", "tokens": tokens})
    yield PLAN


def a_token_that_is_misspelt(here: Path) -> Iterator[Step]:
    longer(here)
    for name, letter in (("base", "abcdefg"), ("b", "abcdefg"), ("a", "abcdefgij")):
        tokenizer(here / name, letter, added_tokens=[added("<start>", len(letter))])
    source = {"kind": "model_token", "model": "./a", "token": "<strat>"}
    recipe(here, tokenizer={"source": "union", "tokens": {"<new>": {"source": source}}})
    yield PLAN
    text = (here / "recipe.yaml").read_text().replace("<strat>", "<start>")
    (here / "recipe.yaml").write_text(text)
    yield PLAN


def a_token_that_is_like_none(here: Path) -> Iterator[Step]:
    longer(here)
    source = {"kind": "model_token", "model": "./a", "token": "nothing like it"}
    recipe(here, tokenizer={"source": "union", "tokens": {"<new>": {"source": source}}})
    yield PLAN
    text = (here / "recipe.yaml").read_text().replace("nothing like it", "j")
    (here / "recipe.yaml").write_text(text)
    yield PLAN


def rows_that_are_packed(here: Path) -> Iterator[Step]:
    longer(here)
    packed = {"model.embed_tokens.weight": torch.zeros(8, 8, dtype=torch.int8)}
    rewrite(here / "b", lambda tensors: tensors.update(packed))
    recipe(here, tokenizer_source="union")
    yield PLAN
    floats = {"model.embed_tokens.weight": torch.zeros(8, 8)}
    rewrite(here / "b", lambda tensors: tensors.update(floats))
    yield PLAN


def a_model_without_embeddings(here: Path) -> Iterator[Step]:
    alike(here)
    tokenizer(here / "a", "badcfehg")
    for name in ("a", "b"):
        rewrite(
            here / name,
            lambda tensors: [
                tensors.pop(each) for each in ("model.embed_tokens.weight", "lm_head.weight")
            ],
        )
    recipe(here, tokenizer_source="union")
    yield PLAN
    recipe(here, tokenizer_source="union", models=[{"model": "./base"}])
    yield PLAN


def padding_without_embeddings(here: Path) -> Iterator[Step]:
    alike(here)
    for name in ("a", "b"):
        rewrite(
            here / name,
            lambda tensors: [
                tensors.pop(each) for each in ("model.embed_tokens.weight", "lm_head.weight")
            ],
        )
    recipe(here, tokenizer={"source": "./a", "pad_to_multiple_of": 16})
    yield PLAN
    recipe(here)
    yield PLAN


def another_chat_template(here: Path) -> Iterator[Step]:
    alike(here)
    for name in ("base", "a", "b"):
        (here / name / "tokenizer_config.json").write_text(json.dumps({"chat_template": name}))
    yield VERIFY
    recipe(here, chat_template="chatml")
    yield (chosen_template, here)


def chosen_template(here: Path) -> str:
    """Merge, and see that the result has the template that the recipe names."""
    from flows.cli.program import run

    assert run(["merge", "recipe.yaml", "out"]) == 0
    written = "".join(
        path.read_text()
        for path in (here / "out").iterdir()
        if path.name in ("chat_template.jinja", "tokenizer_config.json")
    )
    assert "im_start" in written
    return "merged"


def another_end_of_text(here: Path) -> Iterator[Step]:
    alike(here)
    for name, number in (("base", 1), ("a", 2), ("b", 1)):
        (here / name / "generation_config.json").write_text(json.dumps({"eos_token_id": number}))
    on_base(here)
    yield VERIFY
    for name in ("base", "a", "b"):
        (here / name / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    yield VERIFY


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_tokenizer(situation: Situation, here: Path, mergeflow: Shell, advice: Advice) -> None:
    recipe(here)
    advice.follow(mergeflow, situation(here))
