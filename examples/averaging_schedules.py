"""What averaging the checkpoints of a run brings, on the model zoo: `make averaging-plot`.

The zoo's prose expert is averaged over the last checkpoints of its own run, and of two runs made
here from the same base: one at a constant learning rate, one with the usual decay. For each
schedule and number of checkpoints the average is merged by mergeflow and its bits per byte are
measured on held-out prose, in plain torch. Prints a table, draws the picture.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.model_zoo import Zoo, build_zoo
from merge_core.checkpoints.sources import describe_source
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.operations.merge import merge
from merge_core.operations.trajectory.schedules import schedule_weights
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from tasks.search.greedy_soup import Soup, greedy_soup

DOMAIN = "prose"
SCHEDULES: dict[str, dict[str, Any]] = {
    "uniform": {"schedule": "uniform"},
    "EMA, β = 0.8": {"schedule": "ema", "beta": 0.8},
    "linear (WMA)": {"schedule": "wma"},
    "WSM, cosine": {"schedule": "wsm", "decay": "cosine"},
    "WSM, 1-sqrt": {"schedule": "wsm", "decay": "1-sqrt"},
}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
STEPS, CHECKPOINTS = 96, 12
Bits = Callable[[Path], Any]
"""Bits of each held-out document and its size in bytes, as two tensors."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path, help="where the zoo is, or is to be")
    parser.add_argument("--plot", type=Path, required=True, help="the picture to write")
    parser.add_argument("--runs", type=Path, help="where the two runs are kept, or are to be")
    chosen = parser.parse_args(arguments)
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

    zoo = build_zoo(chosen.zoo)
    runs = chosen.runs or zoo.directory.with_name("averaging-runs")
    panels = {
        "the zoo's own run: 4 checkpoints, decayed": list(zoo.checkpoints(DOMAIN)),
        f"constant rate: {CHECKPOINTS} checkpoints": train_run(zoo, runs / "constant", final=1.0),
    }
    decayed = train_run(zoo, runs / "decayed", final=0.05)[-1]
    with tempfile.TemporaryDirectory() as scratch:
        bits = bits_measure(zoo, runs / "measured")
        results = {
            title: measure_run(run, bits, Home(Path(scratch))) for title, run in panels.items()
        }
        constant = panels[f"constant rate: {CHECKPOINTS} checkpoints"]
        soup, selected, kept_aside = measure_soup(constant, bits, Home(Path(scratch)))
    reference = per_byte(bits(decayed))
    print(as_table(results, reference))
    print(soup_lines(constant, soup, selected, kept_aside))
    draw(results, reference, chosen.plot)
    return 0


def train_run(zoo: Zoo, place: Path, final: float) -> list[Path]:
    """Fine-tune the zoo's base on prose, at a rate that ends at `final` of its height; once."""
    from flows.model_zoo.build import token_stream
    from flows.model_zoo.settings import DEMO
    from flows.model_zoo.suite import WINDOW
    from flows.model_zoo.text import read_domains
    from flows.model_zoo.training import (
        quiet_and_reproducible,
        save_checkpoint,
        save_trainer_state,
        train,
    )

    def found() -> list[Path]:
        return sorted(place.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))

    if found():
        return found()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = replace(DEMO.expert, steps=STEPS, checkpoints=CHECKPOINTS, final=final)
    domains = read_domains(DEMO.code_bytes, DEMO.prose_bytes, DEMO.held_out_documents, WINDOW)
    texts = {domain.name: [each.text for each in domain.training] for domain in domains}
    tokenizer = AutoTokenizer.from_pretrained(zoo.base)
    fresh = place.with_name(f".{place.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)

    def keep(model: Any, step: int, history: list[dict[str, float]]) -> None:
        directory = fresh / f"checkpoint-{step}"
        save_checkpoint(model, tokenizer, directory)
        save_trainer_state(directory, run, step, history)

    with quiet_and_reproducible(DEMO.seed + 2):
        model = AutoModelForCausalLM.from_pretrained(zoo.base, dtype="float32")
        streams = {DOMAIN: token_stream(tokenizer, texts[DOMAIN])}
        train(model, streams, run, stage=place.name, seed=DEMO.seed + 2, on_checkpoint=keep)
    fresh.rename(place)
    return found()


def bits_measure(zoo: Zoo, kept: Path) -> Bits:
    """What measures a checkpoint on the zoo's held-out prose; found again in `kept` by content."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from flows.model_zoo.measure import held_out_bits

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(zoo.base)
    identity = hashlib.sha256((zoo.suite / "data" / f"zoo_{DOMAIN}_bpb.jsonl").read_bytes())
    kept.mkdir(parents=True, exist_ok=True)

    def bits(directory: Path) -> Any:
        digest = describe([directory])[0].digest
        known = kept / f"{digest}-{identity.hexdigest()[:12]}.pt"
        if not known.exists():
            with torch.no_grad():
                model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
                measured = held_out_bits(model, tokenizer, zoo, DOMAIN)
            torch.save(measured, known.with_suffix(".new"))
            known.with_suffix(".new").rename(known)
        return torch.load(known, weights_only=True)

    return bits


def per_byte(measured: Any) -> float:
    """Bits per byte over all documents."""
    bits, sizes = measured
    return float(bits.sum() / sizes.sum())


def measure_run(run: Sequence[Path], bits: Bits, home: Home) -> dict[str, dict[int, float]]:
    """Bits per byte by schedule and number of last checkpoints; `single` by position."""
    counts = [count for count in (2, 4, 8, 12) if count <= len(run)]
    sources = describe(run)
    results = {"single": {at: per_byte(bits(path)) for at, path in enumerate(run, 1)}}
    for title, settings in SCHEDULES.items():
        results[title] = {1: results["single"][len(run)]}
        for count in counts:
            weights = schedule_weights(count=count, **settings)
            merged = averaged(sources[-count:], weights, home)
            results[title][count] = per_byte(bits(merged))
            print(
                f"{run[0].parent}: {title}, last {count}: {results[title][count]:.4f}", flush=True
            )
    return results


def measure_soup(run: Sequence[Path], bits: Bits, home: Home) -> tuple[Soup, float, float]:
    """A greedy soup chosen on every other document; its bits per byte there, and on the others."""
    sources = describe(run)

    def half(measured: Any, start: int) -> float:
        return per_byte(tuple(part[start::2] for part in measured))

    def soup_of(positions: Sequence[int]) -> Path:
        share = [1 / len(positions)] * len(positions)
        return averaged([sources[position] for position in positions], share, home)

    singles = [-half(bits(path), 0) for path in run]
    soup = greedy_soup(singles, lambda positions: -half(bits(soup_of(positions)), 0))
    final = bits(soup_of(soup.ingredients))
    return soup, half(final, 0), half(final, 1)


def describe(run: Sequence[Path]) -> list[SourceCheckpoint]:
    """The checkpoints of a run as sources of a merge."""
    return [describe_source(str(path), path, DigestMemo(None)) for path in run]


def averaged(sources: Sequence[SourceCheckpoint], weights: Sequence[float], home: Home) -> Path:
    """The directory of a weighted average, merged by mergeflow."""
    models = [
        {"model": source.reference, "parameters": {"weight": weight}}
        for source, weight in zip(sources, weights, strict=True)
    ]
    recipe = parse_recipe({"merge_method": "linear", "models": models})
    by_reference = {source.reference: source for source in sources}
    return Path(merge(recipe, by_reference, home=home, check=False).path)


def as_table(results: dict[str, dict[str, dict[int, float]]], decayed: float) -> str:
    """The measurements as markdown, the best average of each run in bold."""
    lines = []
    for title, run in results.items():
        counts = sorted({count for name in SCHEDULES for count in run[name]} - {1})
        best = min(run[name][count] for name in SCHEDULES for count in counts)
        lines += [f"\n{title}\n", "| schedule | " + " | ".join(f"last {n}" for n in counts) + " |"]
        lines.append("|---|" + "---|" * len(counts))
        for name in SCHEDULES:
            cells = [f"{run[name][count]:.4f}" for count in counts]
            shown = [f"**{cell}**" if cell == f"{best:.4f}" else cell for cell in cells]
            lines.append(f"| {name} | " + " | ".join(shown) + " |")
        single = run["single"]
        lines.append(
            f"\nlast checkpoint {single[max(single)]:.4f}, best {min(single.values()):.4f}"
        )
    return "\n".join([*lines, f"last checkpoint of the decayed run of {STEPS} steps {decayed:.4f}"])


def soup_lines(run: Sequence[Path], soup: Soup, selected: float, kept_aside: float) -> str:
    """The soup in words."""
    names = ", ".join(run[position].name for position in soup.ingredients)
    return (
        f"greedy soup: {names}; where it was chosen {selected:.4f} (best single"
        f" {-max(soup.singles):.4f}), on the other documents {kept_aside:.4f}"
    )


def draw(results: dict[str, dict[str, dict[int, float]]], decayed: float, place: Path) -> None:
    """Bits per byte over the number of checkpoints, one panel for each run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=110, layout="constrained")
    for axes, (title, run) in zip(figure.subplots(1, 2), results.items(), strict=True):
        for colour, name in zip(COLOURS, SCHEDULES, strict=True):
            points = sorted(run[name].items())
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=name, markersize=4)
        single = run["single"]
        last, best = single[max(single)], min(single.values())
        axes.axhline(last, color="#333333", linestyle="--", linewidth=1)
        axes.annotate("last checkpoint", (1, last), (0, 3), textcoords="offset points", fontsize=8)
        if best < last:
            axes.axhline(best, color="#7a7a7a", linestyle=":", linewidth=1)
        if max(single) == CHECKPOINTS:
            axes.axhline(decayed, color="#000000", linewidth=1)
            label = "the same steps with a decayed rate"
            axes.annotate(label, (1, decayed), (0, 3), textcoords="offset points", fontsize=8)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("last checkpoints averaged")
        axes.grid(color="#e4e4e4")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("bits per byte on held-out prose")
    figure.axes[1].legend(fontsize=8, frameon=False)
    place.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(place)


if __name__ == "__main__":
    sys.exit(main())
