"""The model zoo: real checkpoints with a known ancestry, built once and found again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from flows.model_zoo import Zoo, build_zoo
from flows.model_zoo.measure import DOMAINS, measure, show
from flows.model_zoo.optimizer import orthogonal
from flows.model_zoo.settings import DEMO, TINY
from flows.model_zoo.training import quiet_and_reproducible
from flows.model_zoo.zoo import is_whole
from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.errors import OutputError

PROJECT = Path(__file__).resolve().parents[3]
CHECKPOINT_FILES = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


def every_model(zoo: Zoo) -> list[Path]:
    finals = [zoo.base, zoo.code_expert, zoo.prose_expert, zoo.other_run, zoo.other_tokenizer]
    return [*finals, *zoo.checkpoints("code"), *zoo.checkpoints("prose")]


def task_vector(model: Path, base: Path) -> torch.Tensor:
    after = load_file(model / "model.safetensors")
    before = load_file(base / "model.safetensors")
    return torch.cat([(after[name].float() - before[name].float()).flatten() for name in before])


def distance(model: Path, base: Path) -> float:
    before = load_file(base / "model.safetensors").values()
    size = torch.cat([weight.float().flatten() for weight in before]).norm()
    return float(task_vector(model, base).norm() / size)


def test_every_model_is_a_complete_directory_of_the_same_shape(tiny_zoo: Zoo) -> None:
    shapes = set()
    for directory in every_model(tiny_zoo):
        files = {path.name for path in directory.iterdir()} - {"trainer_state.json"}
        assert files == CHECKPOINT_FILES, directory
        checkpoint = open_checkpoint(directory)
        assert checkpoint.dtype == "bfloat16"
        shapes.add(tuple((name, entry.shape) for name, entry in checkpoint.tensors.items()))
    assert len(shapes) == 1


def test_transformers_loads_and_generates_with_an_expert(tiny_zoo: Zoo) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_zoo.code_expert)
    tokenizer = AutoTokenizer.from_pretrained(tiny_zoo.code_expert)
    assert model.dtype == torch.bfloat16
    assert model.config.bos_token_id == tokenizer.bos_token_id
    answer = model.generate(**tokenizer("def ", return_tensors="pt"), max_new_tokens=4)
    assert answer.shape[1] >= 5


@pytest.mark.parametrize(
    "text", ["def f(x):\n\treturn 'é'", "  two  spaces \r\n", "日本語 🙂 \x00"]
)
def test_the_tokenizer_gives_back_any_text(tiny_zoo: Zoo, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_zoo.base)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_chat_template_uses_the_tokenizers_special_tokens(tiny_zoo: Zoo) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_zoo.base)
    chat = [{"role": "user", "content": "hello"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<|begin|><|user|>hello<|end|><|assistant|>"
    ids = tokenizer(text)["input_ids"]
    assert {ids[0], ids[1], ids[-1]} <= set(tokenizer.all_special_ids)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_runs_checkpoints_are_numbered_and_the_last_is_the_expert(
    tiny_zoo: Zoo, domain: str
) -> None:
    steps = []
    for directory in tiny_zoo.checkpoints(domain):
        state = json.loads((directory / "trainer_state.json").read_text())
        assert directory.name == f"checkpoint-{state['global_step']}"
        assert state["max_steps"] == TINY.expert.steps
        assert state["log_history"][-1]["step"] == state["global_step"]
        steps.append(state["global_step"])
    assert steps == sorted(steps)
    assert len(steps) == TINY.expert.checkpoints
    expert = tiny_zoo.directory / f"{domain}-expert" / "model.safetensors"
    last = tiny_zoo.checkpoints(domain)[-1] / "model.safetensors"
    assert last.read_bytes() == expert.read_bytes()


def test_experts_are_near_their_base_and_the_other_run_is_not(tiny_zoo: Zoo) -> None:
    assert distance(tiny_zoo.code_expert, tiny_zoo.base) < 0.3
    assert distance(tiny_zoo.prose_expert, tiny_zoo.base) < 0.3
    assert distance(tiny_zoo.other_run, tiny_zoo.base) > 1.0


def test_the_experts_task_vectors_are_far_from_parallel(tiny_zoo: Zoo) -> None:
    code = task_vector(tiny_zoo.code_expert, tiny_zoo.base)
    prose = task_vector(tiny_zoo.prose_expert, tiny_zoo.base)
    assert abs(float(torch.cosine_similarity(code, prose, dim=0))) < 0.7


def test_only_the_other_tokenizer_model_has_another_tokenizer(tiny_zoo: Zoo) -> None:
    files = {path.name: path / "tokenizer.json" for path in every_model(tiny_zoo)[:5]}
    base = files["base"].read_bytes()
    same = {name: file.read_bytes() == base for name, file in files.items()}
    assert [name for name, equal in same.items() if not equal] == ["other-tokenizer"]


def test_each_expert_is_better_than_the_base_at_home_and_worse_abroad(tiny_zoo: Zoo) -> None:
    table = measure(tiny_zoo, scales=(0.5,))
    base, code, prose = table["base"], table["code expert"], table["prose expert"]
    assert code["code"].bits_per_byte < base["code"].bits_per_byte
    assert prose["prose"].bits_per_byte < base["prose"].bits_per_byte
    assert code["prose"].bits_per_byte > prose["prose"].bits_per_byte
    assert prose["code"].bits_per_byte > code["code"].bits_per_byte
    assert base["code"].gain == 0
    assert len(show(table).splitlines()) == len(table) + 2


def test_a_built_zoo_is_found_without_importing_torch(tiny_zoo: Zoo) -> None:
    script = (
        "import sys; from pathlib import Path; from flows.model_zoo import build_zoo;"
        f"build_zoo(Path({str(tiny_zoo.directory)!r}), scale='tiny');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=PROJECT).returncode == 0


@pytest.mark.parametrize("harm", ["cut short", "deleted", "changed"])
def test_a_damaged_zoo_is_not_whole(tiny_zoo: Zoo, tmp_path: Path, harm: str) -> None:
    copy = shutil.copytree(tiny_zoo.directory, tmp_path / "zoo")
    assert is_whole(copy, TINY)
    weights = copy / "prose-expert" / "model.safetensors"
    if harm == "cut short":
        weights.write_bytes(weights.read_bytes()[:-2])
    elif harm == "deleted":
        weights.unlink()
    else:
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    assert not is_whole(copy, TINY)


def test_a_zoo_of_another_scale_is_not_taken_for_this_one(tiny_zoo: Zoo) -> None:
    assert not is_whole(tiny_zoo.directory, DEMO)


def test_a_directory_with_other_things_in_it_is_refused_and_kept(
    tmp_path: Path, tiny_zoo: Zoo
) -> None:
    (tmp_path / "thesis.txt").write_text("draft")
    with pytest.raises(OutputError, match="is not a model zoo") as refused:
        build_zoo(tmp_path, scale="tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert "or an earlier zoo" in str(refused.value.mend)
    assert build_zoo(tiny_zoo.directory, scale="tiny").directory == tiny_zoo.directory


@pytest.mark.slow
def test_a_build_elsewhere_gives_the_same_bytes_and_says_nothing_but_progress(
    tiny_zoo: Zoo, tmp_path: Path
) -> None:
    """With other hash seeds and core counts too, and after a build that was interrupted.

    If the bytes differ because the zoo's code changed, raise `Settings.version`.
    """
    left_over = tmp_path / ".zoo.building" / "base"
    left_over.mkdir(parents=True)
    (left_over / "junk").write_text("half a model")
    command = [sys.executable, "-m", "flows.model_zoo", str(tmp_path / "zoo"), "--scale", "tiny"]
    environment = {**os.environ, "PYTHONHASHSEED": "5", "OMP_NUM_THREADS": "2"}
    ran = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "base" in ran.stdout
    assert "tokens" in ran.stdout
    first = json.loads((tiny_zoo.directory / "zoo.json").read_text())
    second = json.loads((tmp_path / "zoo" / "zoo.json").read_text())
    assert second == first
    assert not left_over.exists()


def test_training_leaves_torch_as_it_was() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with quiet_and_reproducible(3):
        torch.rand(4)
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("shape", [(32, 32), (96, 32), (32, 96)])
def test_muons_update_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 100
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.3
    assert values.max() < 1.3
