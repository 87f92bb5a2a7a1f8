"""Which settings of adapter_config.json leave `W + scaling * B @ A` right, and which do not.

The list is one of what is understood. A setting that PEFT gets tomorrow may add something else, or
take something out of the base, so one that is not listed is refused unless it is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from merge_core.errors import CheckpointError

_READ = frozenset(
    {
        *("peft_type", "base_model_name_or_path", "r", "lora_alpha", "rank_pattern"),
        *("alpha_pattern", "use_rslora", "use_dora", "fan_in_fan_out", "ensure_weight_tying"),
        *("bias", "init_lora_weights", "exclude_modules", "modules_to_save"),
    }
)
"""What the reading of an adapter itself decides about."""
_WITHOUT_EFFECT = frozenset(
    {
        *("task_type", "auto_mapping", "peft_version", "revision", "inference_mode"),
        *("base_model_class", "parent_library", "runtime_config"),
        # Which modules are adapted is told by the factors that are saved.
        *("target_modules", "layers_to_transform", "layers_pattern"),
        # How it was trained or started. What they start is told by init_lora_weights.
        *("lora_dropout", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
        *("lora_dtype", "lorap_lr_ratio", "lorap_emb_lr"),
        # A part of a setting that is refused itself.
        *("qalora_group_size", "megatron_core"),
        # How old versions of PEFT kept the weights in memory.
        "merge_weights",
    }
)
_REFUSED = {
    "trainable_token_indices": "trains single tokens",
    "target_parameters": "adapts parameters that are no module's weight",
    "layer_replication": "repeats layers of its base",
    "use_qalora": "is a QALoRA, whose input is pooled",
    "alora_invocation_tokens": "is an activated LoRA, which switches itself on at a token",
    "arrow_config": "routes between several adapters",
    "use_bdlora": "is a block-diagonal LoRA",
    "monteclora_config": "is a MonteCLoRA, which draws its weights",
    "kasa_config": "is a KaSA, which takes its base's smallest singular values out",
    "velora_config": "is a VeLoRA, whose training is not known here",
    "megatron_config": "adapts Megatron's parallel layers",
    "enable_lora": "adapts parts of fused layers",
    "lora_bias": "has biases of its own",
}
"""Settings that mean something else than scaling * B @ A, whatever they hold."""
_STARTS_AT_BASE = ("gaussian", "eva", "orthogonal", "mica")
"""Starts that PEFT gives an adapter while it leaves the base as it is, beside true and false."""
SAVED_AGAIN = (
    "in the run that trained it, save it again with PEFT's"
    " path_initial_model_for_weight_conversion, which makes an ordinary LoRA of it"
)
"""The way out for a start that was taken out of the base and cannot be repeated."""
_MERGED = "merge the adapter into its base with PEFT (merge_and_unload), and use the result"
_NOT_MERGED = frozenset({"alora_invocation_tokens", "use_qalora", "arrow_config"})
"""Settings under which PEFT refuses to merge, too."""
_ONLY_SERVED = (
    "leave it out: no weights can hold what it does, and PEFT cannot merge it either; it only works"
    " as an adapter on its base"
)
_STACK_FIRST = (
    "stack the layers of its base by a recipe first (merge_method: passthrough, with a slice for"
    " each entry of layer_replication, whose two numbers are its layer_range), delete"
    " layer_replication from adapter_config.json, and apply the adapter to the stack"
)
_PROMPTS = frozenset(
    {
        *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT"),
        *("CARTRIDGE", "ADAPTION_PROMPT", "XLORA", "POLY"),
    }
)
"""PEFT's kinds without `merge_and_unload`: they add to the prompt, or choose as they run."""
Start = Literal["pissa", "olora"]
"""Starts that are taken out of the base again (`residual`), as PEFT does on loading."""
_OF_ITS_DATA = ("corda", "lora_ga")
"""Starts that depend on data which the adapter does not hold: PEFT cannot repeat them."""


def refuse_variants(path: Path, values: Mapping[str, Any]) -> None:
    """Refuse settings under which an adapter is not `W + scaling * B @ A` of its base's W.

    Args:
        path: of adapter_config.json, for the message.
        values: the file's.

    Raises:
        CheckpointError: names the setting and what to do.
    """
    for key, what in _REFUSED.items():
        if values.get(key):
            raise _refused(
                path,
                f"{key} is set: this adapter {what}, which is not supported",
                _way_out(key),
            )
    bias = values.get("bias")
    if bias not in (None, "none"):
        raise _refused(
            path,
            f"bias is {str(bias)[:40]!r}: this adapter also changes biases, which is not supported",
        )
    if start_of(values.get("init_lora_weights")) is None:
        _refuse_start(path, values.get("init_lora_weights"))
    for key, value in values.items():
        known = key in _READ or key in _WITHOUT_EFFECT or key in _REFUSED
        if not known and not _is_empty(value):
            raise _refused(
                path,
                f"{key[:80]} is {str(value)[:80]!r}, and what this setting does to the weights is"
                " not known here",
                f"{_MERGED}; or, if it does nothing to the weights, delete it from {path.name}",
            )


def refuse_other_kinds(path: Path, kind: Any) -> None:
    """Refuse an adapter of another kind than LoRA.

    Raises:
        CheckpointError: with what to do, if PEFT can merge that kind.
    """
    if kind == "LORA":
        return
    raise _refused(
        path,
        f"its peft_type is {str(kind)[:40]!r}; only LORA adapters are read",
        _ONLY_SERVED if str(kind) in _PROMPTS else _MERGED,
    )


def _way_out(key: str) -> str:
    if key in _NOT_MERGED:
        return _ONLY_SERVED
    return _STACK_FIRST if key == "layer_replication" else _MERGED


def start_of(setting: Any) -> Start | None:
    """The start that was taken out of the base and can be found again, by `init_lora_weights`.

    Both are spelt as PEFT takes them: OLoRA's in any case.
    """
    if setting == "pissa":
        return "pissa"
    return "olora" if isinstance(setting, str) and setting.lower() == "olora" else None


def _refuse_start(path: Path, start: Any) -> None:
    """Refuse an adapter whose start was taken out of its base and cannot be found again.

    PEFT keeps W - scaling * B0 @ A0 in place of W, and the adapter in its file holds B0 and A0 too.
    """
    if start is None or isinstance(start, bool) or start in _STARTS_AT_BASE:
        return
    shown = str(start)[:40]
    kind = shown.lower()
    what = f"init_lora_weights is {shown!r}"
    if kind.startswith("pissa"):
        raise _refused(
            path,
            f"{what}: its start was taken out of the base's weights by a search that begins at"
            " random, so nobody can find it again",
            f"{SAVED_AGAIN}; PEFT draws another start each time it loads this adapter",
        )
    if kind.startswith(_OF_ITS_DATA):
        raise _refused(
            path,
            f"{what}: its start was taken out of the base's weights, so it cannot be added to them",
            f"{SAVED_AGAIN}; PEFT cannot repeat that start without its data",
        )
    if kind == "loftq":
        raise _refused(
            path,
            f"{what}: it was trained on weights that LoftQ had rounded, not on those of its base",
            "apply it to the weights that were saved with it (LoftQ's backbone), with"
            f" init_lora_weights: true in {path.name}; or {_MERGED}",
        )
    raise _refused(
        path,
        f"{what}, a start that is not known here: it may have changed the base's weights",
        f"{_MERGED}; if that start leaves the base as it is, write init_lora_weights: true in"
        f" {path.name}",
    )


def _is_empty(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {})


def _refused(path: Path, what: str, mend: str = _MERGED) -> CheckpointError:
    return CheckpointError(what, where=str(path), mend=mend)
