"""The calibration process: `python -m tasks.calibration.process`, started by
`tasks.calibration.measure`.

Loads one causal language model with transformers, runs the samples through it and writes what a
merge method needs to know, as float32 safetensors under the checkpoint's own tensor names.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from tasks.processes.child import Send
from tasks.processes.model import Problem, do_job, torch_device


def main() -> None:
    """Measure the job's checkpoint."""
    do_job(measure)


def measure(job: dict[str, Any], send: Send) -> dict[str, Any]:
    """Write the statistic that a job asks for; return what it was measured on.

    Raises:
        Problem: the checkpoint or the data cannot be used.
    """
    # Most of a small measurement is imports; collecting garbage meanwhile costs a quarter more.
    gc.disable()
    import torch
    from safetensors.torch import save_file

    from tasks.calibration.model import load_model, load_tokenizer, tokenized
    from tasks.calibration.statistics import STATISTICS

    gc.enable()
    device = torch_device(job["device"])
    torch.manual_seed(0)
    directory = Path(job["checkpoint"])
    tokenizer = load_tokenizer(directory)
    samples = [
        tokenized(tokenizer, line, prompt, text, job["max_length"])
        for line, prompt, text in job["samples"]
    ]
    loaded = load_model(
        directory,
        job["adapter"] and Path(job["adapter"]),
        device,
        samples,
        with_names=job["statistic"] != "loss",
    )
    total = len(samples)

    def advance(done: int) -> None:
        send({"done": done, "total": total})

    measured = STATISTICS[job["statistic"]](loaded, samples, job["batch_size"], advance)
    for name, values in measured.items():
        if not bool(torch.isfinite(values).all()):
            raise Problem(
                f"what was measured of {name} is not finite",
                place="model",
                mend="the model computes NaN or infinity on this data; check it, and the data",
            )
    save_file(
        {name: values.float().cpu().contiguous() for name, values in measured.items()},
        Path(job["out"]) / "model.safetensors",
        metadata={"format": "pt"},
    )
    return {
        "statistic": job["statistic"],
        "samples": total,
        "tokens": sum(sample.counted for sample in samples),
        "device": device,
    }


if __name__ == "__main__":
    main()
