"""Training every model of the zoo, in order: the base, its two experts, and the two traps."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from flows.model_zoo.place import Zoo
from flows.model_zoo.settings import Run, Settings, Shape
from flows.model_zoo.suite import WINDOW, write_suite
from flows.model_zoo.text import read_domains
from flows.model_zoo.tokenizer import train_tokenizer
from flows.model_zoo.training import (
    new_model,
    quiet_and_reproducible,
    save_checkpoint,
    save_trainer_state,
    train,
)
from merge_core.progress import Progress, ProgressEvent


def build(zoo: Zoo, settings: Settings, progress: Progress | None) -> None:
    """Write the suite and all checkpoints below `zoo.directory`."""
    shape, seed = settings.shape, settings.seed
    listener = _one_at_a_time(progress)
    domains = read_domains(
        settings.code_bytes, settings.prose_bytes, settings.held_out_documents, WINDOW
    )
    write_suite(zoo.suite, domains, settings.held_out_documents)
    texts = {domain.name: [document.text for document in domain.training] for domain in domains}
    with quiet_and_reproducible(seed):
        usual = _Lessons.of(texts, shape)
        prose_only = _Lessons.of({"prose": texts["prose"]}, shape)
        # Models are made here, where the seed is global, and trained two at a time. Each training
        # stays on one thread of torch: the weights do not depend on the number of cores, and two
        # threads inside one operation wait for each other whenever something else wants a core.
        base, other = (new_model(shape, usual.tokenizer, start) for start in (seed, seed + 100))
        strange = new_model(shape, prose_only.tokenizer, seed)

        def train_base() -> None:
            usual.pretrain(base, zoo.base, settings.base, seed, "base", listener)

        def train_traps() -> None:
            usual.pretrain(
                other, zoo.other_run, settings.other_run, seed + 100, "other run", listener
            )
            place, run = zoo.other_tokenizer, settings.other_tokenizer
            prose_only.pretrain(strange, place, run, seed, "other tokenizer", listener)

        def train_expert(domain: str, place: Path, start: int) -> None:
            usual.fine_tune(base, domain, place, zoo.run(domain), settings.expert, start, listener)

        _at_once(train_base, train_traps)
        _at_once(
            partial(train_expert, "code", zoo.code_expert, seed + 1),
            partial(train_expert, "prose", zoo.prose_expert, seed + 2),
        )


def _at_once(*steps: Callable[[], None]) -> None:
    with ThreadPoolExecutor(len(steps)) as pool:
        for future in [pool.submit(step) for step in steps]:
            future.result()


def _one_at_a_time(progress: Progress | None) -> Progress | None:
    """The listener, never called by two trainings in the same moment."""
    if progress is None:
        return None
    lock = threading.Lock()

    def listen(event: ProgressEvent) -> None:
        with lock:
            progress(event)

    return listen


@dataclass(frozen=True)
class _Lessons:
    """A tokenizer and, for each domain, its training text as one row of tokens."""

    tokenizer: PreTrainedTokenizerFast
    streams: Mapping[str, torch.Tensor]

    @classmethod
    def of(cls, texts: Mapping[str, Sequence[str]], shape: Shape) -> _Lessons:
        every = [text for name in sorted(texts) for text in texts[name]]
        tokenizer = train_tokenizer(every, vocabulary=shape.vocabulary, context=shape.context)
        streams = {name: token_stream(tokenizer, found) for name, found in texts.items()}
        return cls(tokenizer, streams)

    def pretrain(
        self,
        model: LlamaForCausalLM,
        place: Path,
        run: Run,
        seed: int,
        stage: str,
        progress: Progress | None,
    ) -> None:
        train(model, self.streams, run, stage=stage, seed=seed, progress=progress)
        save_checkpoint(model, self.tokenizer, place)

    def fine_tune(
        self,
        base: LlamaForCausalLM,
        domain: str,
        place: Path,
        checkpoints: Path,
        run: Run,
        seed: int,
        progress: Progress | None,
    ) -> None:
        def keep(model: LlamaForCausalLM, step: int, history: list[dict[str, float]]) -> None:
            directory = checkpoints / f"checkpoint-{step}"
            save_checkpoint(model, self.tokenizer, directory)
            save_trainer_state(directory, run, step, history)

        expert = copy.deepcopy(base)
        train(
            expert,
            {domain: self.streams[domain]},
            run,
            stage=f"{domain} expert",
            seed=seed,
            progress=progress,
            on_checkpoint=keep,
        )
        save_checkpoint(expert, self.tokenizer, place)


def token_stream(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> torch.Tensor:
    """All texts as one row of tokens, each begun by the token that begins a document."""
    tokens: list[int] = []
    for row in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]:
        tokens.append(tokenizer.bos_token_id)
        tokens.extend(row)
    return torch.tensor(tokens)
