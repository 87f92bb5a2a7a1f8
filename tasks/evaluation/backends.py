"""What computes the scores of a checkpoint: transformers, vLLM, or a server.

Imported in evaluation processes only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from merge_core.files.bounded_json import read_json
from tasks.evaluation.checkpoint_server import serving
from tasks.evaluation.context import context_of
from tasks.processes.model import Problem

_ANSWER_SECONDS = 3600
"""How long one request may take; the suite's `timeout_minutes` ends the whole."""


@contextlib.contextmanager
def loaded(settings: dict[str, Any], checkpoint: str, device: str, encoded: Any) -> Iterator[Any]:
    """A model of lm-eval's with a checkpoint's weights, for as long as the block lasts.

    Args:
        settings: the suite's.
        encoded: tokens that were made before, for transformers.

    Raises:
        Problem: a server does not start, or fails to answer.
    """
    match settings["backend"]:
        case "server":
            with _served(settings, checkpoint) as model:
                yield model
        case "vllm":
            yield _in_vllm(settings, checkpoint)
        case _:
            yield _in_transformers(settings, checkpoint, device, encoded)


def _in_transformers(settings: dict[str, Any], checkpoint: str, device: str, encoded: Any) -> Any:
    from tasks.evaluation.lm_eval_model import ObservedLM

    spread = settings["device_map"]
    return ObservedLM(
        encoded=encoded,
        pretrained=checkpoint,
        device=device,
        dtype=settings["dtype"],
        # log-probabilities of 16-bit logits would be rounded to 3 digits before they are summed
        softmax_dtype="float32",
        max_length=settings["max_length"],
        trust_remote_code=False,
        **({"parallelize": True, "device_map": spread} if spread else {}),
    )


def vllm_options(settings: dict[str, Any], checkpoint: str) -> dict[str, Any]:
    """What lm-eval's vLLM model is made with."""
    asked: dict[str, Any] = settings["backend_options"]
    return asked | {
        "pretrained": checkpoint,
        "dtype": settings["dtype"],
        "max_model_len": settings["max_length"],
        "seed": settings["seed"],
        "batch_size": "auto",
        "trust_remote_code": False,
    }


def _in_vllm(settings: dict[str, Any], checkpoint: str) -> Any:
    from tasks.evaluation.lm_eval_vllm import ObservedVLLM

    return ObservedVLLM(**vllm_options(settings, checkpoint))


@contextlib.contextmanager
def _served(settings: dict[str, Any], checkpoint: str) -> Iterator[Any]:
    import requests

    from tasks.evaluation.lm_eval_served import ServedLM

    # requests would send prompts to the proxy of this machine's environment
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    with serving(settings["server"], checkpoint) as address:
        model = ServedLM(
            base_url=address.url,
            model=address.model,
            tokenizer=checkpoint,
            tokenizer_backend="huggingface",
            max_length=settings["max_length"]
            or context_of(read_json(Path(checkpoint) / "config.json"))
            or 2048,
            seed=settings["seed"],
            timeout=_ANSWER_SECONDS,
        )
        try:
            yield model
        except (requests.RequestException, KeyError, IndexError, TypeError) as error:
            raise Problem(
                f"the server does not answer as OpenAI's completions do: {type(error).__name__}:"
                f" {error}",
                place="settings.server",
                mend="it has to take tokens for a prompt, and echo them with their logprobs, as"
                " vLLM's server does",
            ) from error
