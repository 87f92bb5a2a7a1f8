"""A LoRA adapter from a task vector: each matrix cut to a rank by its exact SVD, the error told."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from merge_core.checkpoints.adapters.fitting import (
    TRANSPOSED_MODELS,
    TRANSPOSED_MODULES,
    is_vocabulary,
    ties_head,
)
from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.checkpoints.sources import open_source
from merge_core.checkpoints.tensor_names import named_as
from merge_core.errors import CompatibilityError, RecipeError
from merge_core.operations.adapters.low_rank import cut
from merge_core.operations.adapters.records import AdapterManifest, ModuleRow, RestRow, totals
from merge_core.operations.adapters.write import Factors, write_adapter
from merge_core.operations.execute import refuse_existing
from merge_core.output.model_files import card
from merge_core.progress import Progress, Throttle
from merge_core.records import MergeInput, SourceCheckpoint
from merge_core.runtime.lazy_torch import torch
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.dtypes import MERGEABLE, code_of, torch_dtype
from merge_core.tensors.inputs import FeedContext
from merge_core.tensors.names import group_of
from merge_core.text.markdown import code, inline
from merge_core.text.plain import plain
from merge_core.verification.verify import raise_for_errors, verify

_WEIGHT = ".weight"
_INNER_MODELS = {"gpt2": "transformer.", "bloom": "transformer."}
"""Model types whose published checkpoints name tensors as the inner model does, and its name."""
_COMPOSITE = ("text_config", "vision_config", "audio_config")
_HEAD = "lm_head"
"""The module that transformers gives the embeddings' weights as output head."""
_BLOCK = 1 << 18
_GENERATES = re.compile(r"ForCausalLM|LMHeadModel")


@dataclass(frozen=True)
class ExtractOptions:
    """What to extract, and how."""

    rank: int = 16
    include: tuple[str, ...] = ()
    """Globs of tensor names; without any, every matrix but embeddings."""
    exclude: tuple[str, ...] = ()
    """Globs of tensor names that are left to the rest."""
    save_rest: bool = False
    """Save in full whatever else changed."""
    dtype: str = "float32"


@dataclass
class _Extract:
    """The modules and rest tensors found so far."""

    factors: list[Factors] = field(default_factory=list)
    rows: list[ModuleRow] = field(default_factory=list)
    rest: list[RestRow] = field(default_factory=list)


def extract_adapter(
    base: SourceCheckpoint,
    expert: SourceCheckpoint,
    out: Path,
    options: ExtractOptions,
    *,
    progress: Progress | None = None,
) -> AdapterManifest:
    """Write expert minus base as a LoRA adapter of a rank.

    Raises:
        CompatibilityError: the expert is not a fine-tune of the base, or equal to it.
        RecipeError: a rank below 1, a glob that matches nothing.
        OutputError: `out` exists or cannot be written.
    """
    refuse_existing(out)
    if options.rank < 1:
        raise RecipeError(f"rank must be at least 1, not {options.rank}", where="rank")
    dtype = code_of(options.dtype, "dtype")
    raise_for_errors(verify(base, [expert], scan_weights=False))
    ours = open_source(base)
    theirs = named_as(ours, open_source(expert))
    _check_globs(ours, options)
    with BlockReader() as reader:
        context = FeedContext(reader, torch.device("cpu"), _BLOCK)
        found = _extract(ours, theirs, options, context, progress)
        if not found.factors and not found.rest:
            raise CompatibilityError(
                "its weights are exactly those of the base; there is nothing to extract",
                where=expert.reference,
            )
        replaced = _replaced(ours, theirs, found, context) if options.save_rest else {}
        tied = _tie_head(ours, found, replaced)
        replaced = _under_module_names(ours, found, replaced)
    if not found.factors and not replaced:
        raise CompatibilityError(
            f"{len(found.rest)} tensors changed, none of which a LoRA holds",
            where=expert.reference,
            mend="extract with --save-rest, or name matrices with --include",
        )
    inputs = (
        MergeInput(reference=base.reference, digest=base.digest, role="base"),
        MergeInput(reference=expert.reference, digest=expert.digest, role="model"),
    )
    return write_adapter(
        out,
        found.factors,
        {
            "kind": "extract",
            "inputs": [entry.model_dump() for entry in inputs],
            **totals(found.rows, found.rest),
            "warnings": _warnings(ours, found),
        },
        dtype=dtype,
        card=_card(base, expert, options),
        settings=_settings(base, ours, found, replaced, tied),
        replaced=replaced,
    )


def _extract(
    base: Checkpoint,
    expert: Checkpoint,
    options: ExtractOptions,
    context: FeedContext,
    progress: Progress | None,
) -> _Extract:
    found = _Extract()
    total = sum(tensor.numel for tensor in base.tensors.values())
    throttle = Throttle(progress, "extract", total)
    for name, tensor in base.tensors.items():
        if tensor.dtype in MERGEABLE and tensor.numel:
            _take(base, expert, name, options, context, found)
        throttle.advance(tensor.numel)
    return found


def _take(
    base: Checkpoint,
    expert: Checkpoint,
    name: str,
    options: ExtractOptions,
    context: FeedContext,
    found: _Extract,
) -> None:
    """One tensor: into factors, or to the rest."""
    tensor = base.tensors[name]
    delta = expert.tensors[name].open(context).read(0, tensor.numel).clone()
    origin = tensor.open(context).read(0, tensor.numel)
    size = float(origin.norm())
    delta -= origin
    norm = float(delta.norm())
    if norm == 0.0:
        return
    if not _is_wanted(name, tensor.shape, options):
        relative = norm / size if size else 0.0
        found.rest.append(RestRow(tensor=name, norm=norm, relative=relative, saved=False))
        return
    module = name.removesuffix(_WEIGHT)
    embedding = group_of(name) == "embeddings"
    matrix = delta.view(tensor.shape)
    small = cut(matrix.T if embedding or _is_transposed(base, module) else matrix, options.rank)
    found.factors.append(Factors(module, small.a, small.b, embedding))
    found.rows.append(
        ModuleRow(
            module=module, rank=small.a.shape[0], norm=small.norm, error=small.lost / small.norm
        )
    )


def _is_wanted(name: str, shape: Sequence[int], options: ExtractOptions) -> bool:
    if len(shape) != 2 or not name.endswith(_WEIGHT):
        return False
    if any(fnmatch.fnmatchcase(name, glob) for glob in options.exclude):
        return False
    if options.include:
        return any(fnmatch.fnmatchcase(name, glob) for glob in options.include)
    return group_of(name) not in ("embeddings", "norms")


def _is_transposed(base: Checkpoint, module: str) -> bool:
    """Whether the weight is stored (in, out), as by GPT-2's Conv1D."""
    is_named = module.rpartition(".")[2] in TRANSPOSED_MODULES
    return is_named and base.config.get("model_type") in TRANSPOSED_MODELS


def _replaced(
    base: Checkpoint, expert: Checkpoint, found: _Extract, context: FeedContext
) -> dict[str, torch.Tensor]:
    """All tensors of every module that has one in the rest, from the expert.

    PEFT saves whole modules, so a module with a changed bias is saved with its weight, and its
    factors are dropped.
    """
    saved: dict[str, torch.Tensor] = {}
    modules = sorted({row.tensor.rpartition(".")[0] for row in found.rest} - {""})
    for name, tensor in expert.tensors.items():
        if any(name.startswith(f"{module}.") for module in modules):
            values = tensor.open(context).read(0, tensor.numel)
            saved[name] = values.to(torch_dtype(tensor.dtype), copy=True).view(tensor.shape)
    kept = [each for each in found.factors if each.module + _WEIGHT not in saved]
    names = {each.module for each in kept}
    found.factors = kept
    found.rest = [row.model_copy(update={"saved": row.tensor in saved}) for row in found.rest]
    found.rest += [
        RestRow(
            tensor=row.module + _WEIGHT,
            norm=row.norm,
            relative=_relative(base, row, context),
            saved=True,
        )
        for row in found.rows
        if row.module not in names
    ]
    found.rest.sort(key=lambda row: row.tensor)
    found.rows = [row for row in found.rows if row.module in names]
    return saved


def _tie_head(base: Checkpoint, found: _Extract, replaced: dict[str, torch.Tensor]) -> bool:
    """Give an output head that is the embedding matrix what the embeddings got.

    PEFT keeps the two apart otherwise. Whether there was anything to give.
    """
    if not ties_head(base):
        return False
    for each in found.factors:
        if each.embedding and is_vocabulary(base, each.module + _WEIGHT):
            found.factors.append(Factors(_HEAD, each.b.T, each.a.T))
            return True
    for name, values in replaced.items():
        if group_of(name) == "embeddings" and is_vocabulary(base, name):
            replaced[_HEAD + _WEIGHT] = values
            return True
    return False


def _under_module_names(
    base: Checkpoint, found: _Extract, replaced: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Name what was found as PEFT names it in the loaded model."""
    prefix = _inner_prefix(base)

    def module_name(name: str) -> str:
        return name if name in (_HEAD, _HEAD + _WEIGHT) else prefix + name

    found.factors = [replace(each, module=module_name(each.module)) for each in found.factors]
    found.rows = [row.model_copy(update={"module": module_name(row.module)}) for row in found.rows]
    return {module_name(name): values for name, values in replaced.items()}


def _inner_prefix(base: Checkpoint) -> str:
    """What a checkpoint that was saved from the inner model lacks in front of its names."""
    prefix = _INNER_MODELS.get(str(base.config.get("model_type")), "")
    lacking = not any(name.startswith(prefix) for name in base.tensors)
    return prefix if lacking and _is_generator(base) else ""


def _is_generator(base: Checkpoint) -> bool:
    names = base.config.get("architectures")
    return isinstance(names, list) and any(_GENERATES.search(str(name)) for name in names)


def _relative(base: Checkpoint, row: ModuleRow, context: FeedContext) -> float:
    tensor = base.tensors[row.module + _WEIGHT]
    size = float(tensor.open(context).read(0, tensor.numel).norm())
    return row.norm / size if size else 0.0


def _warnings(base: Checkpoint, found: _Extract) -> list[str]:
    warnings = []
    lost = [row for row in found.rest if not row.saved]
    if lost:
        warnings.append(
            f"{len(lost)} changed tensors are not in the adapter, being no matrices or left out;"
            " extract with --save-rest to save them in full"
        )
    if any(key in base.config for key in _COMPOSITE):
        warnings.append(
            "modules are named as the checkpoint names them, which transformers renames in some"
            " multimodal models as it loads them: see that PEFT reports no unexpected keys"
        )
    return warnings


def _settings(
    base: SourceCheckpoint,
    opened: Checkpoint,
    found: _Extract,
    replaced: Mapping[str, torch.Tensor],
    tied: bool,
) -> dict[str, Any]:
    settings: dict[str, Any] = {"base_model_name_or_path": base.reference}
    if _is_generator(opened):
        settings["task_type"] = "CAUSAL_LM"
    if any(_is_transposed(opened, each.module) for each in found.factors):
        settings["fan_in_fan_out"] = True
    modules = sorted({row.tensor.rpartition(".")[0] for row in found.rest if row.saved})
    if replaced:
        head = [_HEAD] if _HEAD + _WEIGHT in replaced else []
        prefix = _inner_prefix(opened)
        settings["modules_to_save"] = [*(prefix + name for name in _outermost(modules)), *head]
    if tied:
        settings["ensure_weight_tying"] = True
    return settings


def _outermost(modules: Sequence[str]) -> list[str]:
    """Modules that are not inside another one of them."""
    return [
        module for module in modules if not any(module.startswith(f"{other}.") for other in modules)
    ]


def _check_globs(base: Checkpoint, options: ExtractOptions) -> None:
    for option, globs in (("include", options.include), ("exclude", options.exclude)):
        for glob in globs:
            if not fnmatch.filter(base.tensors, glob):
                raise RecipeError(
                    f"no tensor matches '{glob}'",
                    where=f"--{option}",
                    mend=f"write a glob of whole tensor names, like '{next(iter(base.tensors))}'",
                )


def _card(base: SourceCheckpoint, expert: SourceCheckpoint, options: ExtractOptions) -> str:
    return card(
        Path(__file__).with_name("extracted_card.md"),
        {
            "base_model": plain(base.reference),
            "library_name": "peft",
            "tags": ["lora", "mergeflow"],
        },
        rank=options.rank,
        base=inline(base.reference),
        base_digest=code(base.digest),
        expert=inline(expert.reference),
        expert_digest=code(expert.digest),
    )
