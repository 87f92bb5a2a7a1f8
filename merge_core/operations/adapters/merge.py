"""Several adapters of one base merged into one adapter, as their products are merged: B @ A.

A and B are never merged apart: mean(B) @ mean(A) has cross terms that no adapter learned. Linear
methods stack the factors, which is exact. Any other method works on the cores of the products in
the space that the adapters share, and its result is a low-rank product again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from merge_core.checkpoints.adapters.files import Adapter, LoraPair, open_adapter
from merge_core.checkpoints.adapters.fitting import fit
from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.errors import CheckpointError, CompatibilityError, RecipeError
from merge_core.files.digests import digest_of
from merge_core.findings import some
from merge_core.operations.adapters.in_memory import merge_in_memory
from merge_core.operations.adapters.low_rank import Pair, core_space, cut
from merge_core.operations.adapters.records import AdapterManifest, ModuleRow, totals
from merge_core.operations.adapters.write import Factors, write_adapter
from merge_core.operations.execute import refuse_existing
from merge_core.output.model_files import card
from merge_core.progress import Progress, Throttle
from merge_core.recipes.recipe import Recipe
from merge_core.records import SourceAdapter
from merge_core.runtime.lazy_torch import torch
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.inputs import FeedContext
from merge_core.text.markdown import block, code, inline
from merge_core.text.plain import plain

Space = Literal["concat", "core"]

LINEAR_METHODS = ("linear", "task_arithmetic")
"""Methods whose result is a weighted sum of the task vectors."""
_NOT_OF_ADAPTERS = (
    "slices",
    "modules",
    "recipes",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
)
_BLOCK = 1 << 18


@dataclass(frozen=True)
class _Module:
    """One module with its pair in each adapter that has one, by reference."""

    name: str
    pairs: Mapping[str, LoraPair]

    @property
    def tensor(self) -> str:
        """The name of its weight, which filters of a recipe are matched against."""
        return f"{self.name}.weight"

    @property
    def embedding(self) -> bool:
        """Whether its factors are those of an embedding."""
        return next(iter(self.pairs.values())).embedding


def merge_adapters(
    recipe: Recipe,
    adapters: Mapping[str, SourceAdapter],
    out: Path,
    *,
    space: Space | None = None,
    rank: int | None = None,
    base: Checkpoint | None = None,
    progress: Progress | None = None,
) -> AdapterManifest:
    """Merge adapters into a new adapter directory.

    Args:
        recipe: its models are adapters; where it has a base_model, task vectors are differences
            from that, so the adapters' own products are the task vectors.
        adapters: an adapter for each model of the recipe.
        space: how; by default `concat` for linear methods and `core` for the others.
        rank: cut each merged product to this rank; the error of that is in the manifest.
        base: the base's headers, where it is at hand, to check that the adapters fit it.

    Raises:
        RecipeError: the recipe is not one of adapters, or its method is not linear and `concat`
            was asked for.
        CompatibilityError: the adapters do not belong to one base.
        CheckpointError: an adapter is damaged, or not only of low-rank pairs.
        OutputError: `out` exists or cannot be written.
    """
    refuse_existing(out)
    space = _space(recipe, space)
    opened = {name: open_adapter(adapters[name].directory) for name in _models(recipe)}
    for adapter in opened.values():
        _check_alone(adapter)
    modules = _modules(opened)
    digests = {name: adapters[name].digest for name in opened}
    if recipe.base_model:
        digests[recipe.base_model] = digest_of(recipe.base_model)
    throttle = Throttle(progress, "merge adapters", 2 * len(modules))
    with BlockReader() as reader:
        context = FeedContext(reader, torch.device("cpu"), _BLOCK)
        if base is not None:
            for adapter in opened.values():
                _check_base(adapter, base, context)
        merge = _concatenated if space == "concat" else _in_core_space
        merged = merge(recipe, modules, digests, context, rank, throttle)
    return write_adapter(
        out,
        [factors for factors, _ in merged],
        {
            "kind": "merge",
            "method": recipe.merge_method,
            "space": space,
            "inputs": [
                {"reference": name, "digest": adapters[name].digest, "role": "model"}
                for name in opened
            ],
            **totals([row for _, row in merged]),
            "warnings": _warnings(opened),
        },
        dtype=recipe.stored_dtype or "F32",
        card=_card(recipe, adapters, space),
        settings=_settings(recipe, opened),
    )


def _space(recipe: Recipe, wanted: Space | None) -> Space:
    linear = recipe.merge_method in LINEAR_METHODS and not recipe.post
    if wanted == "concat" and not linear:
        named = "a recipe with post-steps" if recipe.post else recipe.merge_method
        raise RecipeError(
            f"{named} is not linear, so stacked factors cannot hold its result",
            where="--space",
            mend="merge in core space, or by " + " or ".join(LINEAR_METHODS),
        )
    return wanted or ("concat" if linear else "core")


def _models(recipe: Recipe) -> list[str]:
    for key in _NOT_OF_ADAPTERS:
        if getattr(recipe, key, None):
            raise RecipeError(
                f"{key} has no meaning for adapters", where=key, mend="list them under models"
            )
    if recipe.method.calibration is not None:
        raise RecipeError(
            f"{recipe.merge_method} measures models by running them, and adapters alone do not run",
            where="merge_method",
            mend="merge BASE+ADAPTER for each adapter into a checkpoint instead",
        )
    return [name for name in recipe.direct_references() if name != recipe.base_model]


def _check_alone(adapter: Adapter) -> None:
    """Refuse what is not a low-rank change of weights."""
    problem = None
    in_full = sorted(adapter.replaced.keys() - adapter.copies)
    if in_full:
        problem = f"it saves {some(in_full)} in full, which is no change of low rank"
    if adapter.config.use_dora:
        problem = "it is a DoRA, whose change depends on the base's weights"
    if adapter.config.start:
        raise CheckpointError(
            f"its start ({adapter.config.start}) was taken out of the base's weights, so its"
            " factors alone are not what it changes",
            where=str(adapter.directory),
            mend="make an ordinary LoRA of it, of twice its rank: mergeflow adapter extract BASE"
            f" BASE+ADAPTER OUT --rank {2 * adapter.config.r}; or merge BASE+ADAPTER into a"
            " checkpoint",
        )
    if problem:
        raise CheckpointError(
            f"{problem}; such adapters cannot be merged into an adapter",
            where=str(adapter.directory),
            mend="merge BASE+ADAPTER for each of them into a checkpoint instead",
        )


def _check_base(adapter: Adapter, base: Checkpoint, context: FeedContext) -> None:
    """Refuse an adapter of another base, as far as its shapes and its copies of weights tell."""
    for name, entry in fit(adapter, base).replaced.items():
        copy, original = entry.open(context), base.tensors[name].open(context)
        for start in range(0, entry.numel, _BLOCK):
            count = min(_BLOCK, entry.numel - start)
            if not torch.equal(copy.read(start, count), original.read(start, count)):
                raise CompatibilityError(
                    f"it carries {name} of the base that it was trained on, which differs from that"
                    f" in {base.directory}",
                    where=str(adapter.directory),
                    mend="name its own base as base_model, or merge BASE+ADAPTER into a checkpoint",
                )


def _modules(adapters: Mapping[str, Adapter]) -> list[_Module]:
    """Every module that some adapter changes. Where one of them has none, it changes nothing."""
    found: dict[str, dict[str, LoraPair]] = {}
    for reference, adapter in adapters.items():
        for pair in adapter.pairs:
            found.setdefault(pair.module, {})[reference] = pair
    for module, pairs in found.items():
        (first, one), *others = pairs.items()
        for reference, other in others:
            ours = (one.b.shape[0], one.a.shape[1], one.embedding)
            theirs = (other.b.shape[0], other.a.shape[1], other.embedding)
            if ours != theirs:
                raise CompatibilityError(
                    f"{module} is {list(theirs[:2])} here and {list(ours[:2])} in {first}",
                    where=reference,
                    mend="merge adapters of one base only",
                )
    ties = {adapter.config.tie_weights for adapter in adapters.values()}
    if len(ties) > 1 and any(pair.embedding for pairs in found.values() for pair in pairs.values()):
        raise CompatibilityError(
            "some of the adapters tie the output head to the embeddings and some do not",
            mend="merge adapters that were trained with the same ensure_weight_tying",
        )
    return [_Module(name, found[name]) for name in sorted(found)]


def _concatenated(
    recipe: Recipe,
    modules: Sequence[_Module],
    digests: Mapping[str, str],
    context: FeedContext,
    rank: int | None,
    throttle: Throttle,
) -> list[tuple[Factors, ModuleRow]]:
    """The As on top of each other, the Bs side by side, weighted. Exact for linear methods."""
    weights = _weights(recipe, modules, digests)
    throttle.advance(len(modules))
    merged = []
    for module in modules:
        scaled = []
        for reference, lora in module.pairs.items():
            b, a = _read(lora, context)
            scaled.append((b * weights[module.tensor][reference], a))
        b = torch.cat([b for b, _ in scaled], dim=1)
        a = torch.cat([a for _, a in scaled], dim=0)
        full = core_space([(b, a)])
        small = cut(full.core((b, a)), rank)
        if rank and rank < b.shape[1]:
            b, a = full.left @ small.b, small.a @ full.right
        merged.append(_result(module, b, a, small.norm, small.lost))
        throttle.advance(1)
    return merged


def _weights(
    recipe: Recipe, modules: Sequence[_Module], digests: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """By tensor and adapter, what a linear method multiplies a task vector by.

    The method itself is asked: what it makes of unit vectors are its weights, whatever gradients,
    filters and normalisation the recipe has.
    """
    references = [name for name in digests if name != recipe.base_model]
    count = len(references)
    units = {
        name: {module.tensor: torch.eye(count, dtype=torch.float64)[index] for module in modules}
        for index, name in enumerate(references)
    }
    zeros = {module.tensor: torch.zeros(count, dtype=torch.float64) for module in modules}
    in_memory = units | ({recipe.base_model: zeros} if recipe.base_model else {})
    return {
        tensor: dict(zip(references, vector.tolist(), strict=True))
        for tensor, vector in merge_in_memory(recipe, in_memory, digests).items()
    }


def _in_core_space(
    recipe: Recipe,
    modules: Sequence[_Module],
    digests: Mapping[str, str],
    context: FeedContext,
    rank: int | None,
    throttle: Throttle,
) -> list[tuple[Factors, ModuleRow]]:
    """The method on small cores that lose nothing of the products; the base's core is zero."""
    references = [name for name in digests if name != recipe.base_model]
    cores: dict[str, dict[str, torch.Tensor]] = {name: {} for name in digests}
    spaces = {}
    for module in modules:
        products = {name: _read(lora, context) for name, lora in module.pairs.items()}
        shared = spaces[module.name] = core_space(list(products.values()))
        empty = torch.zeros(shared.left.shape[1], shared.right.shape[0], dtype=torch.float64)
        for name in references:
            cores[name][module.tensor] = shared.core(products[name]) if name in products else empty
        if recipe.base_model:
            cores[recipe.base_model][module.tensor] = empty
        throttle.advance(1)
    made = merge_in_memory(recipe, cores, digests)
    merged = []
    for module in modules:
        small = spaces[module.name].cut(made[module.tensor], rank)
        merged.append(_result(module, small.b, small.a, small.norm, small.lost))
        throttle.advance(1)
    return merged


def _read(lora: LoraPair, context: FeedContext) -> Pair:
    """B with the scaling, and A: float64."""
    b = lora.b.open(context).read(0, lora.b.numel).view(lora.b.shape) * lora.scaling
    return b, lora.a.open(context).read(0, lora.a.numel).clone().view(lora.a.shape)


def _result(
    module: _Module, b: torch.Tensor, a: torch.Tensor, norm: float, lost: float
) -> tuple[Factors, ModuleRow]:
    factors = Factors(module.name, a, b, module.embedding)
    row = ModuleRow(
        module=module.name, rank=factors.rank, norm=norm, error=lost / norm if norm else 0.0
    )
    return factors, row


def _settings(recipe: Recipe, adapters: Mapping[str, Adapter]) -> dict[str, Any]:
    """What all adapters say alike, and the base."""
    configs = [adapter.config for adapter in adapters.values()]
    bases = list(dict.fromkeys(config.base_model for config in configs if config.base_model))
    tasks = {config.values.get("task_type") for config in configs}
    settings = {
        "base_model_name_or_path": bases[0] if len(bases) == 1 else recipe.base_model,
        "task_type": tasks.pop() if len(tasks) == 1 else None,
        "fan_in_fan_out": any(config.fan_in_fan_out for config in configs),
    }
    if configs[0].tie_weights:
        settings["ensure_weight_tying"] = True
    return settings


def _warnings(adapters: Mapping[str, Adapter]) -> list[str]:
    named = {
        adapter.config.base_model for adapter in adapters.values() if adapter.config.base_model
    }
    if len(named) < 2:
        return []
    return [
        f"the adapters name different bases: {some(sorted(named))}; if these are not the same"
        " weights, the result is of no use"
    ]


def _card(recipe: Recipe, adapters: Mapping[str, SourceAdapter], space: Space) -> str:
    rows = (f"| {inline(name)} | {code(adapter.digest)} |" for name, adapter in adapters.items())
    return card(
        Path(__file__).with_name("merged_card.md"),
        {
            **({"base_model": plain(recipe.base_model)} if recipe.base_model else {}),
            "library_name": "peft",
            "tags": ["lora", "merge", "mergeflow", recipe.merge_method],
        },
        method=recipe.merge_method,
        summary=recipe.method.summary,
        where="their factors stacked" if space == "concat" else "in core space (arXiv:2509.17786)",
        rows="\n".join(rows),
        recipe=block(recipe.to_yaml(), "yaml"),
    )
