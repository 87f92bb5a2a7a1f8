"""Scores are those of lm-eval's own command line: accuracies equal, likelihoods nearly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.evaluation.evaluate import evaluate_checkpoint
from tests.support.small_suite import write_suite

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-12), ("bfloat16", 1e-5)])
def test_scores_are_those_of_lm_evals_command_line(
    make_checkpoint, tmp_path: Path, dtype: str, near: float
) -> None:
    checkpoint = make_checkpoint(91)
    settings = {"batch_size": 8, "num_fewshot": 0, "dtype": dtype}
    suite = write_suite(tmp_path / "suite", settings=settings)
    quiz = tmp_path / "suite" / "tasks" / "quiz.yaml"
    quiz.write_text(quiz.read_text().replace("- metric: f1\n", ""))  # which lm-eval cannot combine
    ours = evaluate_checkpoint(
        checkpoint, suite, device="cpu", threads=1, scratch=tmp_path / "scratch"
    )
    out = tmp_path / "theirs"
    model = f"pretrained={checkpoint.path},dtype={dtype},softmax_dtype=float32"
    environment = {
        **os.environ,
        **{"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        **{"HF_HOME": str(tmp_path / "hf"), "HF_DATASETS_CACHE": str(tmp_path / "hf" / "sets")},
    }
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", model]
    command += ["--tasks", "bits", "quiz", "--include_path", f"{suite.directory}/tasks"]
    command += ["--batch_size", "8", "--device", "cpu", "--log_samples", "--output_path", str(out)]
    # Seeds change the order of nothing here; they are the same all the same.
    command += ["--seed", "1234", "--num_fewshot", "0"]
    subprocess.run(command, cwd=suite.directory, env=environment, check=True, capture_output=True)
    (results,) = (json.loads(file.read_text()) for file in out.rglob("results_*.json"))
    bits = results["results"]["bits"]["bits_per_byte,none"]
    assert ours.score("bits").score == pytest.approx(bits, rel=near, abs=0)
    assert ours.score("quiz").score == results["results"]["quiz"]["acc,none"]
    (samples,) = out.rglob("samples_bits_*.jsonl")
    theirs = {
        sample["doc_hash"]: -float(sample["resps"][0][0])
        for sample in map(json.loads, samples.read_text().splitlines())
    }
    own = ours.score("bits")
    for document, value in zip(own.doc_ids, own.values, strict=True):
        nats = value * 0.6931471805599453
        assert nats == pytest.approx(theirs[document], rel=max(near, 1e-12), abs=0)
