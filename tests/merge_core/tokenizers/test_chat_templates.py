"""Named chat templates write the formats that their families of models publish; `auto` takes the
template that most models have.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from merge_core.errors import RecipeError
from merge_core.recipes.chat_templates import CHAT_TEMPLATES
from merge_core.recipes.loading import parse_recipe
from merge_core.tokenizers.chat_template_files import chat_template_for, write_chat_template
from tests.support.checkpoints import run_recipe
from tests.support.tiny_llama import base_weights, write_llama

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi!"},
    {"role": "user", "content": "Bye"},
]
EXPECTED = {
    "alpaca": "<s>Be brief.\n\n### Instruction:\nHello\n\n### Response:\nHi!</s>\n\n"
    "### Instruction:\nBye\n\n### Response:\n",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
    "<|im_start|>assistant\nHi!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
    "<|im_start|>assistant\n",
    "exaone": "[|system|]Be brief.[|endofturn|]\n[|user|]Hello\n[|assistant|]Hi![|endofturn|]\n"
    "[|user|]Bye\n[|assistant|]",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHi!<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] Be brief.\n\nHello [/INST] Hi!</s>[INST] Bye [/INST]",
}


def rendered(template: str, chat: list[dict[str, str]], *, prompt: bool) -> str:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>")),
        bos_token="<s>",
        eos_token="</s>",
        chat_template=template,
    )
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
    assert isinstance(text, str)
    return text


def test_every_named_template_has_an_expected_text() -> None:
    assert CHAT_TEMPLATES.keys() == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_named_template_writes_its_familys_format(name: str) -> None:
    template = chat_template_for(name, [])
    assert template is not None
    assert rendered(template, CHAT, prompt=True) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_conversation_without_a_prompt_to_answer_is_the_beginning_of_one_with(name: str) -> None:
    template = CHAT_TEMPLATES[name]
    whole = rendered(template, CHAT, prompt=True)
    assert whole.startswith(rendered(template, CHAT, prompt=False))
    assert "Be brief." not in rendered(template, CHAT[1:], prompt=True)


def test_auto_is_the_template_that_most_models_have(tmp_path: Path) -> None:
    directories = []
    for index, template in enumerate(("{{ 1 }}", "{{ 2 }}", None, "{{ 2 }}")):
        directory = tmp_path / str(index)
        directory.mkdir()
        if template:
            (directory / "chat_template.jinja").write_text(template)
        directories.append(directory)
    assert chat_template_for("auto", directories) == "{{ 2 }}"
    assert chat_template_for("auto", directories[:3]) == "{{ 1 }}"
    assert chat_template_for("auto", directories[2:3]) is None


def test_a_template_of_ones_own_is_taken_as_it_is() -> None:
    assert chat_template_for("{{ messages }}", []) == "{{ messages }}"


def test_every_file_that_holds_a_template_gets_it(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "old", "eos_token": "</s>"})
    )
    write_chat_template("{{ 1 }}", tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == "{{ 1 }}"
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config == {"chat_template": "{{ 1 }}", "eos_token": "</s>"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "chat_template.jinja",
        "tokenizer_config.json",
    ]


def test_a_merge_has_the_recipes_template(tmp_path: Path) -> None:
    sources = {
        name: write_llama(tmp_path / name, base_weights(seed))
        for seed, name in ((0, "a"), (1, "b"))
    }
    recipe = {
        "merge_method": "linear",
        "models": [{"model": "a"}, {"model": "b"}],
        "chat_template": "chatml",
    }
    run_recipe(recipe, sources, tmp_path / "out")
    text = (tmp_path / "out" / "chat_template.jinja").read_text()
    assert text == CHAT_TEMPLATES["chatml"]


def test_an_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(RecipeError, match="did you mean 'chatml'") as caught:
        parse_recipe(
            {"merge_method": "linear", "models": [{"model": "a"}], "chat_template": "chatm"}
        )
    assert "chat_template" in str(caught.value)
