"""The chat templates that a recipe may name, and the check of what it says."""

from __future__ import annotations

from merge_core.errors import RecipeError, did_you_mean

AUTO = "auto"
_BOS = "{%- if bos_token is defined and bos_token %}{{ bos_token }}{%- endif %}"
_SYSTEM_FIRST = (
    "{%- set system = '' %}"
    "{%- if messages and messages[0].role == 'system' %}"
    "{%- set system = messages[0].content | trim %}{%- set messages = messages[1:] %}"
    "{%- endif %}"
)
CHAT_TEMPLATES = {
    "alpaca": (
        _BOS + "{%- for message in messages %}"
        "{%- if message.role == 'system' %}{{ message.content | trim + '\\n\\n' }}"
        "{%- elif message.role == 'user' %}"
        "{{ '### Instruction:\\n' + message.content | trim + '\\n\\n' }}"
        "{%- elif message.role == 'assistant' %}"
        "{{ '### Response:\\n' + message.content | trim + eos_token + '\\n\\n' }}"
        "{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{ '### Response:\\n' }}{%- endif %}"
    ),
    "chatml": (
        "{%- for message in messages %}"
        "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
    ),
    "exaone": (
        "{%- if messages and messages[0].role != 'system' %}{{ '[|system|][|endofturn|]\\n' }}"
        "{%- endif %}"
        "{%- for message in messages %}"
        "{{ '[|' + message.role + '|]' + message.content }}"
        "{{ '\\n' if message.role == 'user' else '[|endofturn|]\\n' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{ '[|assistant|]' }}{%- endif %}"
    ),
    "llama3": (
        _BOS + "{%- for message in messages %}"
        "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}"
        "{{ message.content | trim + '<|eot_id|>' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
        "{%- endif %}"
    ),
    "mistral": (
        _SYSTEM_FIRST + _BOS + "{%- for message in messages %}"
        "{%- if message.role == 'user' %}"
        "{{ '[INST] ' + (system + '\\n\\n' if loop.first and system else '') }}"
        "{{ message.content | trim + ' [/INST]' }}"
        "{%- elif message.role == 'assistant' %}{{ ' ' + message.content | trim + eos_token }}"
        "{%- else %}"
        "{{ raise_exception('messages must come from user and assistant, but for a first system"
        " message; not from ' + message.role) }}"
        "{%- endif %}{%- endfor %}"
    ),
}
"""Templates by name: the conversation formats that these families of models publish."""


def check_chat_template(choice: str) -> None:
    """Refuse a choice that is neither `auto`, nor a known name, nor a template.

    Raises:
        RecipeError: with the names that are known.
    """
    if choice in (AUTO, *CHAT_TEMPLATES) or "{{" in choice or "{%" in choice:
        return
    raise RecipeError(
        f"'{choice[:80]}' is no template and no name of one;"
        f" {did_you_mean(choice, [AUTO, *CHAT_TEMPLATES])}",
        where="chat_template",
    )
