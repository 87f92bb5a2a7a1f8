"""A training run to watch: it really trains, and writes checkpoints slowly, in the worst order.

Run as `python -m tests.support.training_run ZOO RUN --checkpoints N --pause SECONDS`.

The index and the weights' headers are there long before the weights are, nothing is renamed into
place, and `trainer_state.json` comes last, as with Hugging Face's Trainer.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

LEDGER = "written.jsonl"
"""Beside the checkpoints: one line for each that is complete, with when it began and ended."""
_PIECES = 8
_LAST = ("model-", "config.json", "trainer_state.json")


def main(arguments: list[str] | None = None) -> int:
    """Train, and write the checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--checkpoints", type=int, default=8)
    parser.add_argument("--pause", type=float, default=6.0, help="seconds between checkpoints")
    parser.add_argument("--writing", type=float, default=3.0, help="seconds that writing one takes")
    chosen = parser.parse_args(arguments)

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    from flows.model_zoo.build import token_stream
    from flows.model_zoo.settings import TINY
    from flows.model_zoo.text import read_domains
    from flows.model_zoo.training import (
        quiet_and_reproducible,
        save_checkpoint,
        save_trainer_state,
        train,
    )

    base = chosen.zoo / "base"
    run = replace(TINY.expert, steps=4 * chosen.checkpoints, checkpoints=chosen.checkpoints)
    tokenizer = AutoTokenizer.from_pretrained(base)
    domains = read_domains(TINY.code_bytes, TINY.prose_bytes, TINY.held_out_documents, 64)
    text = {domain.name: [each.text for each in domain.training] for domain in domains}["prose"]
    chosen.run.mkdir(parents=True, exist_ok=True)
    with quiet_and_reproducible(1), tempfile.TemporaryDirectory() as scratch:
        model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")

        def keep(model: LlamaForCausalLM, step: int, history: list[dict[str, float]]) -> None:
            whole = Path(scratch) / f"checkpoint-{step}"
            save_checkpoint(model, tokenizer, whole)
            (whole / "model.safetensors").unlink()
            in_shards = copy.deepcopy(model).to(torch.bfloat16)
            in_shards.save_pretrained(whole, max_shard_size="100KB")
            save_trainer_state(whole, run, step, history)
            time.sleep(chosen.pause)
            write_slowly(whole, chosen.run / whole.name, chosen.writing)

        stream = token_stream(tokenizer, text)
        train(model, {"prose": stream}, run, stage="training", seed=1, on_checkpoint=keep)
    return 0


def write_slowly(whole: Path, target: Path, seconds: float) -> None:
    """Write a checkpoint as a training does, in place, over some seconds; then note it."""
    began = time.time()
    target.mkdir()
    files = sorted(whole.iterdir(), key=lambda path: (_rank(path.name), path.name))
    pieces = _PIECES * sum(path.name.endswith(".safetensors") for path in files)
    for path in files:
        if not path.name.endswith(".safetensors"):
            shutil.copyfile(path, target / path.name)
            continue
        content = path.read_bytes()
        size = -(-len(content) // _PIECES)
        with (target / path.name).open("wb", buffering=0) as file:
            for start in range(0, len(content), size):
                file.write(content[start : start + size])
                time.sleep(seconds / pieces)
    line = {"name": target.name, "began": began, "ended": time.time()}
    with (target.parent / LEDGER).open("a") as ledger:
        ledger.write(json.dumps(line) + "\n")


def _rank(name: str) -> int:
    """The index and small files first, then weights, config, and the trainer's state."""
    return next((place for place, head in enumerate(_LAST, 1) if name.startswith(head)), 0)


if __name__ == "__main__":
    sys.exit(main())
