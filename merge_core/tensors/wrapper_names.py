"""Words that training puts into tensors' names and into a class's name, and no model has.

torch.compile saves `_orig_mod.model.norm.weight`, DataParallel `module.model.norm.weight`, and
transformers under FSDP writes `FSDPLlamaForCausalLM` into config.json. No library loads these.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

_WORDS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module.")
_ANYWHERE = re.compile(rf"(?:^|(?<=\.))(?:{'|'.join(map(re.escape, _WORDS))})")
_BEFORE_ALL = ("module.", "base_model.model.")
"""Of DataParallel, and of PEFT's model after its adapter was merged."""
_CLASS_PREFIX = re.compile(r"^(?:FSDP|Compiled)(?=[A-Z][a-z])")
_NO_MODEL = re.compile(
    r"^(?:OptimizedModule|DataParallel|DistributedDataParallel|FullyShardedDataParallel"
    r"|DeepSpeedEngine|FSDPModule|PeftModel\w*|\w*WithValueHead)$"
)
"""Classes of wrappers, which do not say what they wrap."""


def unwrapped_names(names: Collection[str]) -> dict[str, str]:
    """New names for all tensors of a checkpoint, without the words of wrappers; empty if none.

    Also empty where two tensors would get one name.
    """
    first = next(iter(names), "")
    text = "\n".join(names)
    if not first.startswith(_BEFORE_ALL) and not any(word in text for word in _WORDS):
        return {}
    new = {name: _ANYWHERE.sub("", name) for name in names}
    for word in _BEFORE_ALL:
        while new and all(name.startswith(word) for name in new.values()):
            new = {name: other.removeprefix(word) for name, other in new.items()}
    changed = any(name != other for name, other in new.items())
    return new if changed and len(set(new.values())) == len(new) and all(new.values()) else {}


def words_taken(new: Mapping[str, str]) -> str:
    """The words of wrappers that names lost, as they stood: `_orig_mod.`, `module._orig_mod.`."""
    for name, other in new.items():
        if name != other and name.endswith(other):
            return name.removesuffix(other)
    return next((word for word in _WORDS if any(word in name for name in new)), _BEFORE_ALL[0])


def class_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes that a config names, without the words of wrappers; empty if it names none."""
    named = config.get("architectures")
    texts = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    return tuple(_CLASS_PREFIX.sub("", name) for name in texts if not _NO_MODEL.match(name))


def names_a_wrapper(config: Mapping[str, Any]) -> bool:
    """Whether a config names a wrapper where the model's class belongs."""
    named = config.get("architectures")
    return isinstance(named, list) and bool(named) and list(class_names(config)) != named
