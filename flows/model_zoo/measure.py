"""Does the zoo show what it is meant to show? Bits per byte on the held-out documents, computed
here in plain torch, apart from `merge_core` and from lm-eval."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from flows.model_zoo.place import Zoo
from flows.model_zoo.training import quiet_and_reproducible

SCALES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.5)
DOMAINS = ("code", "prose")
BATCH = 32


@dataclass(frozen=True)
class Score:
    """Bits per byte and share of right answers of one model on one domain's held-out documents."""

    bits_per_byte: float
    accuracy: float
    gain: float
    """How many standard errors of the paired difference in bits it is better than the base."""


def measure(zoo: Zoo, scales: Sequence[float] = SCALES) -> dict[str, dict[str, Score]]:
    """Model name -> domain -> score: base, experts, and task arithmetic at each scale."""
    with quiet_and_reproducible(0), torch.no_grad():
        tokenizer = AutoTokenizer.from_pretrained(zoo.base, trust_remote_code=False)
        assert isinstance(tokenizer, PreTrainedTokenizerFast)  # as `train_tokenizer` made it
        model = _load(zoo.base).eval()
        base = _weights(zoo.base)
        experts = {"code": _weights(zoo.code_expert), "prose": _weights(zoo.prose_expert)}
        candidates = {
            "base": base,
            "code expert": experts["code"],
            "prose expert": experts["prose"],
            "other run": _weights(zoo.other_run),
        }
        for scale in scales:
            candidates[f"task arithmetic {scale:g}"] = {
                name: weight + sum(scale * (expert[name] - weight) for expert in experts.values())
                for name, weight in base.items()
            }
        against: dict[str, torch.Tensor] = {}
        table: dict[str, dict[str, Score]] = {}
        for label, weights in candidates.items():
            # Stored precision, as a merged checkpoint would have it.
            model.load_state_dict({n: w.bfloat16().float() for n, w in weights.items()})
            table[label] = {}
            for domain in DOMAINS:
                bits, size = held_out_bits(model, tokenizer, zoo, domain)
                reference = against.setdefault(domain, bits)
                table[label][domain] = Score(
                    float(bits.sum() / size.sum()),
                    _accuracy(model, tokenizer, zoo, domain),
                    _paired(reference - bits),
                )
    return table


def show(table: dict[str, dict[str, Score]]) -> str:
    """The table as text, one model a line."""
    head = "".join(f"{domain + ' bpb':>12}{'vs base':>10}{'acc':>8}" for domain in DOMAINS)
    lines = [f"{'':22}{head}"]
    for label, scores in table.items():
        cells = "".join(
            f"{scores[d].bits_per_byte:>12.4f}{scores[d].gain:>+9.1f}s{scores[d].accuracy:>8.3f}"
            for d in DOMAINS
        )
        lines.append(f"{label:22}{cells}")
    lines.append("vs base: standard errors of the paired difference; + is better than the base")
    return "\n".join(lines)


def _weights(directory: Path) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in _load(directory).state_dict().items()}


def _load(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, trust_remote_code=False
    )


def _rows(zoo: Zoo, task: str) -> list[dict[str, Any]]:
    path = zoo.suite / "data" / f"{task}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def held_out_bits(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, zoo: Zoo, domain: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bits and bytes of each document, each predicted from the token that begins a document."""
    texts = [row["text"] for row in _rows(zoo, f"zoo_{domain}_bpb")]
    begin = [tokenizer.bos_token_id]
    pairs = [(begin, tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    sizes = torch.tensor([float(len(text.encode())) for text in texts])
    return -log_likelihoods(model, pairs) / math.log(2), sizes


def _accuracy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, zoo: Zoo, domain: str
) -> float:
    rows = _rows(zoo, f"zoo_{domain}_next")
    pairs = []
    for row in rows:
        for choice in row["choices"]:
            prefix = tokenizer(row["prefix"], add_special_tokens=False)["input_ids"]
            whole = tokenizer(row["prefix"] + choice, add_special_tokens=False)["input_ids"]
            pairs.append((prefix, whole[len(prefix) :]))
    scores = log_likelihoods(model, pairs).view(len(rows), -1)
    answers = torch.tensor([row["answer"] for row in rows])
    return float((scores.argmax(1) == answers).float().mean())


def log_likelihoods(
    model: LlamaForCausalLM, pairs: list[tuple[list[int], list[int]]]
) -> torch.Tensor:
    """Natural log likelihood of each continuation after its context."""
    result = torch.empty(len(pairs))
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    for start in range(0, len(order), BATCH):
        chunk = order[start : start + BATCH]
        rows = [pairs[i][0] + pairs[i][1] for i in chunk]
        batch = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for at, row in enumerate(rows):
            batch[at, : len(row)] = torch.tensor(row)
        # Padding is at the end, where causal attention never looks.
        scores = model(input_ids=batch, use_cache=False).logits.log_softmax(-1)
        picked = scores[:, :-1].gather(2, batch[:, 1:, None])[..., 0]
        for at, i in enumerate(chunk):
            context, continuation = pairs[i]
            result[i] = picked[at, len(context) - 1 : len(context) + len(continuation) - 1].sum()
    return result


def _paired(gain: torch.Tensor) -> float:
    error = gain.std() / math.sqrt(len(gain))
    return float(gain.mean() / error) if error > 0 else 0.0
