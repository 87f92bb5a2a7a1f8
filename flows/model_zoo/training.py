"""Training a small Llama on token streams, and writing it as a complete checkpoint directory."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from flows.model_zoo.optimizer import Muon
from flows.model_zoo.settings import Run, Shape
from merge_core.progress import Progress, Throttle

WARMUP = 0.06
"""Share of a run in which the learning rate rises; after it, a cosine falls to `Run.final`."""

OnCheckpoint = Callable[[LlamaForCausalLM, int, list[dict[str, float]]], None]


@contextmanager
def quiet_and_reproducible(seed: int) -> Iterator[None]:
    """Seeded, deterministic, one-threaded torch and a silent transformers, all undone after."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    # The module answers for this name by a property, of which type checkers know nothing.
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    with torch.random.fork_rng(devices=[]):
        try:
            torch.set_num_threads(1)
            torch.use_deterministic_algorithms(True)
            # Nothing here reads memory before writing it, and filling it costs an eighth.
            memory.fill_uninitialized_memory = False
            torch.manual_seed(seed)
            transformers_logging.set_verbosity_error()
            transformers_logging.disable_progress_bar()
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)
            memory.fill_uninitialized_memory = fill
            transformers_logging.set_verbosity(verbosity)
            if bars:
                transformers_logging.enable_progress_bar()


def new_model(shape: Shape, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A randomly initialised Llama of this shape, in float32."""
    torch.manual_seed(seed)
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        # Tied to the output, embeddings of the usual 0.02 begin as nearly equal logits.
        initializer_range=0.05,
        **special,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=64, **special)
    return model


def train(
    model: LlamaForCausalLM,
    streams: Mapping[str, torch.Tensor],
    run: Run,
    *,
    stage: str,
    seed: int,
    progress: Progress | None = None,
    on_checkpoint: OnCheckpoint | None = None,
) -> None:
    """Train in place on random windows, each batch shared evenly among the streams."""
    generator = torch.Generator().manual_seed(seed)
    throttle = Throttle(progress, stage, run.tokens, "tokens")
    optimizers = _optimizers(model, run)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate, run))
        for optimizer in optimizers
    ]
    saved_at = {round(run.steps * (k + 1) / run.checkpoints) for k in range(run.checkpoints)}
    history: list[dict[str, float]] = []
    names = sorted(streams)
    model.train()
    for step in range(1, run.steps + 1):
        rows = [
            _window(streams[names[(step + row) % len(names)]], run.window, generator)
            for row in range(run.batch)
        ]
        batch = torch.stack(rows)
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = float(schedules[0].get_last_lr()[0])
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        throttle.advance(batch.numel())
        if step % 10 == 0 or step in saved_at:
            history.append({"step": step, "loss": round(loss.item(), 4), "learning_rate": rate})
        if on_checkpoint and step in saved_at:
            on_checkpoint(model, step, history)
    model.eval()


def save_checkpoint(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path
) -> None:
    """Weights in bfloat16 with config, generation config and tokenizer."""
    directory.mkdir(parents=True)
    copy.deepcopy(model).bfloat16().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    for path in directory.iterdir():
        path.chmod(0o644)  # safetensors writes for the owner alone


def save_trainer_state(
    directory: Path, run: Run, step: int, history: list[dict[str, float]]
) -> None:
    """By this file an intermediate checkpoint says where in its run it is."""
    state = {
        "global_step": step,
        "max_steps": run.steps,
        "train_batch_size": run.batch,
        "num_input_tokens_seen": step * run.batch * run.window,
        "log_history": history,
    }
    (directory / "trainer_state.json").write_text(json.dumps(state, indent=2) + "\n")


def _optimizers(model: LlamaForCausalLM, run: Run) -> list[torch.optim.Optimizer]:
    matrices: list[torch.nn.Parameter] = []
    vectors: list[torch.nn.Parameter] = []
    for name, weight in model.named_parameters():
        (matrices if weight.ndim == 2 and "embed" not in name else vectors).append(weight)
    return [
        Muon(matrices, lr=run.matrix_rate),
        torch.optim.AdamW(
            vectors, lr=run.vector_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True
        ),
    ]


def _rate(run: Run, step: int) -> float:
    warmup = max(1, round(run.steps * WARMUP))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, run.steps - warmup)
    return run.final + (1 - run.final) * 0.5 * (1 + math.cos(math.pi * progress))


def _window(stream: torch.Tensor, length: int, generator: torch.Generator) -> torch.Tensor:
    start = int(torch.randint(len(stream) - length, (1,), generator=generator))
    return stream[start : start + length]
