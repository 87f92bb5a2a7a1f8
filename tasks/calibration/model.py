"""A causal language model to measure: loaded from local files, every tensor name accounted for.

Imported in the calibration process only: this module loads torch and transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.core_model_loading import revert_weight_conversion
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from merge_core.checkpoints.adapters import adapted, open_adapter
from merge_core.checkpoints.checkpoint import Checkpoint, open_checkpoint
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.dtypes import MERGEABLE
from merge_core.tensors.inputs import TensorInput, values_of
from tasks.processes.model import Problem

_NO_PARAMETERS = (r"\.attn\.(masked_)?bias$", r"rotary_emb\.inv_freq$")
"""Constants that old versions of transformers wrote beside the weights."""
_SAVE_AGAIN = (
    "save the checkpoint again with the installed transformers, or use a method that needs no data"
)


@dataclass(frozen=True)
class TokenizedSample:
    """Token ids of one sample; the loss is that of its last `counted` tokens."""

    ids: tuple[int, ...]
    counted: int


@dataclass(frozen=True)
class LoadedModel:
    """A model in float32, ready to compute, and where each tensor of its checkpoint went."""

    model: Any
    device: str
    names: Mapping[str, str]
    """For each tensor of the checkpoint its name in `stored`."""

    def stored(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Values of the model's parameters as transformers would store them.

        Some models join several tensors of a checkpoint, like the matrices of experts, into one.
        """
        return _stored(self.model, values)


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer.

    Raises:
        Problem: transformers finds none here.
    """
    try:
        return AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise Problem(
            f"transformers loads no tokenizer from {directory}: {_first_line(error)}",
            place="model",
            mend="put the tokenizer's files beside the weights",
        ) from None


def tokenized(
    tokenizer: PreTrainedTokenizerBase, line: int, prompt: str, text: str, max_length: int
) -> TokenizedSample:
    """A sample's tokens: a text loses its end, a prompt its beginning, to fit `max_length`.

    Raises:
        Problem: too few tokens to have a loss.
    """
    if prompt:
        own = tokenizer(text, add_special_tokens=False)["input_ids"][: max_length - 1]
        before = tokenizer(prompt)["input_ids"][-(max_length - len(own)) :]
        ids, counted = [*before, *own], len(own)
    else:
        ids = tokenizer(text)["input_ids"][:max_length]
        counted = len(ids) - 1
    if counted < 1 or len(ids) < 2:
        raise Problem(
            f"line {line} of the data has fewer than two tokens",
            place="data",
            mend="remove it, or make it longer",
        )
    return TokenizedSample(tuple(ids), counted)


def load_model(
    directory: Path,
    adapter: Path | None,
    device: str,
    samples: Sequence[TokenizedSample],
    *,
    with_names: bool = True,
) -> LoadedModel:
    """A checkpoint, with an adapter applied if there is one, as a model on the device.

    Args:
        with_names: account for every tensor; without, and without an adapter, `names` is empty.

    Raises:
        Problem: another kind of model, one that needs its own code, or one whose parameters are
            not the tensors of the checkpoint.
    """
    checkpoint = open_checkpoint(directory)
    _check_kind(checkpoint)
    try:
        # Annotated as the model alone; with `output_loading_info` it is a pair.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (ValueError, OSError, KeyError, ImportError) as error:
        raise Problem(
            f"transformers cannot load this: {_first_line(error)}",
            place="model",
            mend="methods that use data need a model that transformers loads without remote code",
        ) from None
    model, report = loaded
    if report["missing_keys"]:
        raise Problem(
            f"the checkpoint has no tensor for {sorted(report['missing_keys'])[0]}", place="model"
        )
    model.eval()
    _check_ids(model, samples)
    if adapter is not None:
        checkpoint = adapted(checkpoint, open_adapter(adapter))
    names = _matched(checkpoint, model) if with_names or adapter is not None else {}
    model.to(device)
    return LoadedModel(model, device, names)


def _check_kind(checkpoint: Checkpoint) -> None:
    architectures = checkpoint.config.get("architectures") or ["none"]
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if architectures[0] not in known:
        raise Problem(
            "methods that use data measure causal language models; the architecture of this"
            f" checkpoint is {architectures[0]}",
            place="model",
            mend="use a method that needs no data",
        )


def _check_ids(model: Any, samples: Sequence[TokenizedSample]) -> None:
    largest = max(max(sample.ids) for sample in samples)
    rows = model.get_input_embeddings().weight.shape[0]
    if largest >= rows:
        raise Problem(
            f"the tokenizer gives the id {largest}, and the model has {rows} embeddings",
            place="model",
            mend="this tokenizer belongs to another model",
        )
    positions = getattr(model.config, "max_position_embeddings", None)
    longest = max(len(sample.ids) for sample in samples)
    if isinstance(positions, int) and longest > positions:
        raise Problem(
            f"a sample has {longest} tokens, and the model takes {positions}",
            place="data",
            mend=f"set calibration.max_length: {positions}",
        )


def _matched(checkpoint: Checkpoint, model: Any) -> dict[str, str]:
    """The stored form of a parameter for each tensor of the checkpoint, equal value by value.

    A tensor that an adapter changed is put into its parameter.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    stored = {**parameters, **_stored(model, parameters)}
    owned = {id(parameter) for parameter in parameters.values()}
    others = {*dict(model.named_buffers())}
    ignored = [*_NO_PARAMETERS, *(model._keys_to_ignore_on_load_unexpected or ())]
    prefix = f"{model.base_model_prefix}."
    matched: dict[str, str] = {}
    with BlockReader() as reader, torch.no_grad():
        for name, source in checkpoint.tensors.items():
            names = (name, prefix + name, name.removeprefix(prefix))
            found = next((each for each in names if each in stored), None)
            if found is not None:
                parameter = stored[found]
                _compare(source, parameter, reader, is_whole=id(parameter) in owned)
                matched[name] = found
            elif (
                source.dtype in MERGEABLE
                and not others.intersection(names)
                and not any(re.search(pattern, name) for pattern in ignored)
            ):
                raise Problem(
                    f"the tensor {name} is no parameter of the model that transformers makes of"
                    " this checkpoint, so nothing can be measured for it",
                    place="model",
                    mend=_SAVE_AGAIN,
                )
    return matched


def _stored(model: Any, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        found: dict[str, torch.Tensor] = revert_weight_conversion(model, dict(values))
    return found


def _compare(
    source: TensorInput, parameter: torch.Tensor, reader: BlockReader, *, is_whole: bool
) -> None:
    """Check that a parameter has the values of its tensor, or give it those of a made tensor."""
    values = values_of(source, reader)(0, source.numel).to(torch.float32)
    if source.shape == tuple(parameter.shape):
        if not source.stored and is_whole:
            parameter.copy_(values.view(parameter.shape))
            return
        if torch.equal(values, parameter.detach().reshape(-1)):
            return
    raise Problem(
        f"transformers loads {source.name} as other values than are stored, so what is measured"
        " would not fit it",
        place="model",
        mend=_SAVE_AGAIN,
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
