"""The process that asks transformers: `python -m tasks.loading.process`, as `tasks.loading.check`
does.

Loads models on the meta device, where they have shapes and no values. A model's own code is never
run: a class that transformers does not have is not checked.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from merge_core.tensors.names import kind_of, layer_counts
from tasks.processes.model import do_job

_PROBLEMS = ("missing", "unexpected", "mismatched")
_NUMBERS = frozenset({"layer_idx", "layer_id", "layer_number", "layer_index", "training"})
"""Attributes of a layer's modules that tell its place in the stack, not its kind."""
_OF_LAYERS = ("layer", "types", "rope", "pattern")


class _Unchecked(Exception):  # noqa: N818 - an answer, not an error
    """Why a checkpoint cannot be checked."""


def main() -> None:
    """Answer the job on standard input."""
    do_job(lambda job, _send: answer(job))


def answer(job: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers says of the job's checkpoint.

    Args:
        job: `checkpoint`, `donor` or None, `origins` or None, `sources`: directories by reference.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    checkpoint, donor = Path(job["checkpoint"]), job["donor"]
    try:
        model_class = _class_of(checkpoint)
        basis = _loaded(Path(donor), _class_of(Path(donor))) if donor else None
    except _Unchecked as unchecked:
        return {"checked": False, "reason": str(unchecked)}
    architecture = model_class.__name__
    try:
        model, found = _loaded(checkpoint, model_class)
    except _Unchecked as failure:
        return {"checked": True, "architecture": architecture, "failure": str(failure)}
    worse = _worse(found, basis[1] if basis else {}, checkpoint, Path(donor) if donor else None)
    kinds = list(_other_kinds(model, job)) if job["origins"] else []
    return {
        "checked": True,
        "architecture": architecture,
        **found,
        "worse": worse,
        "kinds": kinds,
    }


def _class_of(directory: Path) -> Any:
    """The class that a config names.

    Raises:
        _Unchecked: there is no config, or transformers has no such class.
    """
    import transformers

    path = directory / "config.json"
    if not path.is_file():
        raise _Unchecked("it has no config.json")
    config = json.loads(path.read_text("utf-8"))
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str):
        raise _Unchecked("its config.json names no architecture")
    found = getattr(transformers, name, None)
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        raise _Unchecked(
            f"transformers {transformers.__version__} has no class {name[:80]}"
            + (", and code of its own is not run" if config.get("auto_map") else "")
        )
    return found


def _loaded(directory: Path, model_class: Any) -> tuple[Any, dict[str, list[str]]]:
    """A model on the meta device, and the report of its loading; no fault is ignored silently.

    Raises:
        _Unchecked: it cannot be loaded at all.
    """

    class Plain(model_class):  # type: ignore[misc]
        _keys_to_ignore_on_load_unexpected = None

    Plain.__name__ = model_class.__name__
    try:
        model, info = Plain.from_pretrained(
            directory,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except Exception as error:
        raise _Unchecked(f"{type(error).__name__}: {error}"[:600]) from None
    mismatched = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    return model, {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "mismatched": sorted(mismatched),
    }


def _worse(
    found: Mapping[str, Sequence[str]],
    basis: Mapping[str, Sequence[str]],
    checkpoint: Path,
    donor: Path | None,
) -> dict[str, list[str]]:
    """Problems that the donor does not have to the same extent: what every layer of the donor has
    (an old buffer that is left over) every layer of a stack may have too."""
    more = _depth(checkpoint) / max(1, _depth(donor)) if donor else 1.0
    worse = {}
    for problem in _PROBLEMS:
        known = Counter(map(kind_of, basis.get(problem, ())))
        kinds = Counter(map(kind_of, found[problem]))
        worse[problem] = [
            name
            for name in found[problem]
            if name not in basis.get(problem, ())
            and kinds[kind_of(name)] > known[kind_of(name)] * max(1.0, more)
        ]
    return worse


def _depth(directory: Path) -> int:
    from merge_core.checkpoints.checkpoint import open_checkpoint

    return max(layer_counts(open_checkpoint(directory).tensors).values(), default=1)


def _other_kinds(model: Any, job: Mapping[str, Any]) -> Iterator[str]:
    """Layers that are built otherwise than in the model that they come from."""
    origins = [(str(reference), int(layer)) for reference, layer in job["origins"]["layers"]]
    prefix = str(job["origins"]["prefix"])
    sources = {}
    for reference in dict.fromkeys(reference for reference, _ in origins):
        directory = Path(job["sources"][reference])
        try:
            sources[reference], _ = _loaded(directory, _class_of(directory))
        except _Unchecked:
            return
    built = _layers(model, prefix, len(origins))
    if built is None:
        return
    for number, (reference, layer) in enumerate(origins):
        own = _layers(sources[reference], prefix, None)
        if own is None or layer >= len(own):
            continue
        ours, theirs = _described(built[number]), _described(own[layer])
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                yield (
                    f"layer {number} is layer {layer} of {reference}, but its {key} is"
                    f" {ours.get(key)!r}, not {theirs.get(key)!r}"
                )
                break
    yield from _other_lists(model, sources, origins)


def _layers(model: Any, prefix: str, count: int | None) -> Any:
    """The list of layers whose tensors have a prefix; classes may call its parents otherwise."""
    import torch

    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and (count is None or len(module) == count)
    }
    last = prefix.rpartition(".")[2]
    exact = [name for name in lists if name == prefix or name.endswith(f".{prefix}")]
    near = [name for name in lists if name.rpartition(".")[2] == last]
    chosen = exact or (near if len(near) == 1 else [])
    return lists[chosen[0]] if len(chosen) == 1 else None


def _described(layer: Any) -> dict[str, Any]:
    """The classes and plain settings of a layer and its parts, without their place."""
    described = {}
    for name, module in layer.named_modules():
        described[f"{name}: class".lstrip(": ")] = type(module).__name__
        for key, value in vars(module).items():
            if key not in _NUMBERS and not key.startswith("_") and _is_plain(value):
                described[f"{name}.{key}".lstrip(".")] = value
    return described


def _is_plain(value: Any) -> bool:
    """Whether an attribute is a setting of one layer; lists are those of a whole config."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _other_lists(
    model: Any, sources: Mapping[str, Any], origins: Sequence[tuple[str, int]]
) -> Iterator[str]:
    """Lists of the config, as the class completes it, whose item for a layer is another."""
    ours = _lists(model, len(origins))
    for key, items in ours.items():
        for number, (reference, layer) in enumerate(origins):
            theirs = _lists(sources[reference], None).get(key)
            if theirs and layer < len(theirs) and theirs[layer] != items[number]:
                yield (
                    f"layer {number} is layer {layer} of {reference}, but the config's {key} says"
                    f" {items[number]!r} of it, not {theirs[layer]!r}"
                )
                break


def _lists(model: Any, count: int | None) -> dict[str, list[Any]]:
    config = model.config.get_text_config()
    depth = count or getattr(config, "num_hidden_layers", 0)
    return {
        key: list(value)
        for key, value in vars(config).items()
        if isinstance(value, list | tuple)
        and len(value) == depth
        and any(word in key for word in _OF_LAYERS)
        and not set(map(type, value)) <= {int} | {float}
    }


if __name__ == "__main__":
    main()
