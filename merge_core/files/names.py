"""Names of the files in a checkpoint directory that mean something, by what they are for.

A checkpoint's identity covers all of them, and a merge copies those that hold no weights.
"""

from __future__ import annotations

import fnmatch

GENERATION_NAME = "generation_config.json"
MODULES_NAME = "modules.json"
"""Lists the modules of a sentence-transformers model and their directories."""

SENTENCEPIECE_FILES = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "source.spm",
    "target.spm",
)
"""Vocabularies in sentencepiece's binary form."""
OPAQUE_VOCABULARIES = (
    *SENTENCEPIECE_FILES,
    "tekken.json",
    "tokenizer.model.v3",
    "qwen.tiktoken",
    "cl100k_base.tiktoken",
    "tiktoken.model",
    "ice_text.model",
)
"""Vocabularies in forms whose tokens are not read here, only compared as a whole."""
TOKENIZER_FILES = (
    "tokenizer.json",
    *OPAQUE_VOCABULARIES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "bpe.codes",
    "target_vocab.json",
    "normalizer.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""The tokenizer, and how prompts are written."""
COMPANION_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
    "open_clip_config.json",
    MODULES_NAME,
    "config_sentence_transformers.json",
    "sentence_*_config.json",
)
"""What prepares images, sound and video, and what makes a sentence encoder of a model."""
_WEIGHTS = ("*.safetensors",)
_INDICES = ("*.safetensors.index.json",)
"""What says where weights are."""
_MODEL_FILES = (
    *_WEIGHTS,
    *_INDICES,
    "config.json",
    "adapter_config.json",
    GENERATION_NAME,
    *TOKENIZER_FILES,
    *COMPANION_FILES,
)
_WHERE_NAMED = ("*.py", "*/*.json")
"""Files that count where a checkpoint itself names them: its code, settings of its modules."""


def is_model_file(name: str) -> bool:
    """Whether a file of this name, directly in a checkpoint directory, decides what it computes."""
    return "/" not in name and _matches(name, _MODEL_FILES)


def is_named_file(name: str) -> bool:
    """Whether a file of this name is one only because a checkpoint names it."""
    return _matches(name, _WHERE_NAMED) and not is_model_file(name)


def holds_weights(name: str) -> bool:
    """Whether a file of this name holds weights of a checkpoint or an adapter."""
    return _matches(name, _WEIGHTS)


def is_weight_file(name: str) -> bool:
    """Whether a file of this name holds weights, or says where they are."""
    return _matches(name, (*_WEIGHTS, *_INDICES))


def is_companion(name: str) -> bool:
    """Whether a file in a checkpoint directory is copied beside merged weights as it is."""
    return "/" not in name and _matches(name, COMPANION_FILES)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
