"""adapter_config.json: the settings of a LoRA that decide what it adds.

PEFT knows many kinds of adapter and many variants of LoRA. What would change the result in a way
that is not computed here is an error that names the setting, never ignored (`variants`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_core.checkpoints.adapters.variants import (
    Start,
    refuse_other_kinds,
    refuse_variants,
    start_of,
)
from merge_core.errors import CheckpointError
from merge_core.files.bounded_json import read_json
from merge_core.findings import printable, some
from merge_core.tensors.regex_cost import most_steps

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"

_MAX_RANK = 1 << 16
_MAX_ALPHA = 1e30
_MAX_PATTERN = 512
_USUAL_LENGTH = 64
_MAX_STEPS = 3e8
"""Seconds of matching, over all patterns and modules of an adapter."""


@dataclass(frozen=True)
class AdapterConfig:
    """What of adapter_config.json decides the weights."""

    r: int
    lora_alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool
    use_dora: bool
    fan_in_fan_out: bool
    """Whether adapted weights are stored (in, out), as those of GPT-2's Conv1D are."""
    tie_weights: bool
    """Whether a head that shares the embeddings' weights follows what is done to them."""
    start: Start | None
    """What of the base was taken out of it before training, and belongs to the adapter."""
    base_model: str | None
    """The base that the adapter names, as its training knew it."""
    values: Mapping[str, Any]
    """The file as it is."""

    def rank(self, module: str) -> int:
        """The rank that this module's factors must have."""
        return int(_matched(self.rank_pattern, module, self.r))

    def scaling(self, module: str) -> float:
        """The factor on B @ A: alpha / r, or alpha / sqrt(r) for a rank-stabilised LoRA."""
        alpha = float(_matched(self.alpha_pattern, module, self.lora_alpha))
        rank = self.rank(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def read_adapter_config(directory: Path) -> AdapterConfig:
    """Read adapter_config.json strictly.

    Raises:
        CheckpointError: unreadable, not a LoRA, a setting of the wrong kind, or a variant of LoRA
            that would not be applied right.
    """
    path = directory / CONFIG_NAME
    if not path.is_file():
        named = sorted(each.parent.name for each in directory.glob(f"*/{CONFIG_NAME}"))
        if named:
            raise CheckpointError(
                f"{CONFIG_NAME} is not here, but in {some(map(printable, named))}: PEFT saves an"
                " adapter that has a name in a directory of that name",
                where=str(directory),
                mend=f"name one of them: {directory / named[0]}",
            )
        raise CheckpointError(
            f"this is no LoRA adapter: it has no {CONFIG_NAME}",
            where=str(directory),
            mend="name the directory that PEFT's save_pretrained wrote",
        )
    values = read_json(path)
    kind = values.get("peft_type")
    if kind is None:
        raise CheckpointError(
            "it has no peft_type, so another library than PEFT wrote it; MLX, for one, stores"
            " factors under the same file's name",
            where=str(path),
            mend="merge the adapter into its base with the library that trained it, save the result"
            " as safetensors of transformers, and use that",
        )
    refuse_other_kinds(path, kind)
    refuse_variants(path, values)
    return AdapterConfig(
        r=_rank(path, "r", values.get("r", 8)),
        lora_alpha=_number(path, "lora_alpha", values.get("lora_alpha", 8)),
        rank_pattern=_pattern(path, "rank_pattern", values, _rank),
        alpha_pattern=_pattern(path, "alpha_pattern", values, _number),
        use_rslora=_flag(path, "use_rslora", values),
        use_dora=_flag(path, "use_dora", values),
        fan_in_fan_out=_flag(path, "fan_in_fan_out", values),
        tie_weights=_flag(path, "ensure_weight_tying", values),
        start=start_of(values.get("init_lora_weights")),
        base_model=_text(path, "base_model_name_or_path", values),
        values=values,
    )


def matches(pattern: str, module: str) -> bool:
    """PEFT's rule: the pattern, a regular expression, matches the name or what follows a dot."""
    return re.match(_whole(pattern), module) is not None


def check_patterns(config: AdapterConfig, modules: Collection[str], directory: Path) -> None:
    """Refuse patterns that would take for ever to match against the adapter's modules, and modules
    that the adapter says it leaves out: PEFT would not apply them.

    Raises:
        CheckpointError: names the patterns' key.
    """
    lengths = Counter(len(module) for module in modules)
    for key in ("rank_pattern", "alpha_pattern"):
        steps = sum(
            most_steps(_whole(pattern), length) * count
            for pattern in getattr(config, key)
            for length, count in lengths.items()
        )
        if steps > _MAX_STEPS:
            raise _wrong(directory / CONFIG_NAME, key, "that", "patterns that are quick to match")
        for module in modules:
            if _is_meant_two_ways(getattr(config, key), module):
                raise CheckpointError(
                    f"{key} has {module[:120]!r} and a pattern that matches this module, too",
                    where=str(directory / CONFIG_NAME),
                    mend="leave one of the two in it; PEFT takes the pattern",
                )
    for module in modules:
        if _excludes(config.values.get("exclude_modules"), module):
            raise _wrong(
                directory / CONFIG_NAME,
                "exclude_modules",
                config.values["exclude_modules"],
                f"without {module[:120]}, for which the adapter has factors",
            )


def _excludes(excluded: Any, module: str) -> bool:
    """PEFT's rule: a text is a regular expression for the whole name, a list holds ends of names.

    A text that would take long to match, or is none, is not tried: the factors are there.
    """
    if isinstance(excluded, list):
        return any(f".{module}".endswith(f".{name}") for name in excluded)
    if not isinstance(excluded, str) or most_steps(excluded, len(module)) > _MAX_STEPS:
        return False
    try:
        return re.fullmatch(excluded, module) is not None
    except (re.error, RecursionError, OverflowError):
        return False


def _whole(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"


def _matched(patterns: Mapping[str, float], module: str, default: float) -> float:
    """The value of the first pattern that matches, in the order of the file, as in PEFT; else of
    the name itself, which as a pattern may match something else."""
    for pattern, value in patterns.items():
        if matches(pattern, module):
            return value
    return patterns.get(module, default)


def _is_meant_two_ways(patterns: Mapping[str, float], module: str) -> bool:
    """Whether patterns name a module that is no pattern of itself (`w+`), and match it, too."""
    if module not in patterns or matches(module, module):
        return False
    return any(matches(pattern, module) for pattern in patterns)


def _rank(path: Path, key: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= _MAX_RANK:
        raise _wrong(path, key, value, f"a whole number from 1 to {_MAX_RANK}")
    return value


def _number(path: Path, key: str, value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < _MAX_ALPHA:
        raise _wrong(path, key, value, "a finite number")
    return float(value)


def _flag(path: Path, key: str, values: Mapping[str, Any]) -> bool:
    value = values.get(key)
    if value is not None and type(value) is not bool:
        raise _wrong(path, key, value, "true or false")
    return bool(value)


def _text(path: Path, key: str, values: Mapping[str, Any]) -> str | None:
    value = values.get(key)
    if value is not None and not isinstance(value, str):
        raise _wrong(path, key, value, "text")
    return value


def _pattern(path: Path, key: str, values: Mapping[str, Any], read: Any) -> dict[str, Any]:
    """A map from module patterns to numbers; none that takes for ever to match."""
    given = values.get(key) or {}
    if not isinstance(given, dict):
        raise _wrong(path, key, given, "a map of module names")
    for pattern in given:
        if len(pattern) > _MAX_PATTERN or most_steps(_whole(pattern), _USUAL_LENGTH) > _MAX_STEPS:
            raise _wrong(path, key, pattern, "made of plain module names or simple patterns")
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError):
            raise _wrong(path, key, pattern, "made of regular expressions") from None
    return {pattern: read(path, f"{key}.{pattern[:80]}", value) for pattern, value in given.items()}


def _wrong(path: Path, key: str, value: Any, right: str) -> CheckpointError:
    return CheckpointError(
        f"{key} must be {right}, not {str(value)[:80]!r}",
        where=str(path),
        mend="fetch the adapter again, or have its publisher save it again with PEFT",
    )
