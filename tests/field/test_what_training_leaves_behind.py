"""What trainers, downloads and hands leave: pieces of weights, pointers, conversions, commas.

Each situation is from a public report of a merging tool or a trainer, and is told in its own words.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.field.mends.situations import (
    config,
    fine_tune,
    on_base,
    recipe,
    rewrite,
    tensors_of,
)
from tests.support.adapters import random_factors, write_adapter
from tests.support.by_command import User
from tests.support.checkpoints import write_checkpoint

EMBEDDINGS, UP = "model.embed_tokens.weight", "model.layers.0.mlp.up_proj"
WEIGHTS = "model.safetensors"


@pytest.fixture
def user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> User:
    monkeypatch.chdir(tmp_path)
    base = tensors_of(0)
    write_checkpoint(tmp_path / "base", base)
    write_checkpoint(tmp_path / "a", fine_tune(base, 1))
    on_base(tmp_path, "./a")
    return User(tmp_path, capsys)


def merged(user: User) -> tuple[int, str]:
    """Merge by recipe.yaml; what was said, in one line."""
    code, said = user.run("merge", "recipe.yaml", "out", "--threads", "1")
    return code, " ".join(said.split())


def afresh(here: Path) -> None:
    """All files as they were to be saved: what every mend comes to."""
    for name in ("base", "a", "lora"):
        shutil.rmtree(here / name, ignore_errors=True)
    base = tensors_of(0)
    write_checkpoint(here / "base", base)
    write_checkpoint(here / "a", fine_tune(base, 1))
    write_adapter(here / "lora", random_factors({UP: (8, 8)}, 2))
    if "passthrough" not in (here / "recipe.yaml").read_text():
        on_base(here, "./a")


def alone(here: Path, model: str) -> None:
    """Write recipe.yaml: one model as it is."""
    recipe(here, merge_method="passthrough", models=[{"model": model}])


def an_embedding_of_a_process_without_it(here: Path) -> None:
    """DeepSpeed ZeRO-3, saved by one process."""
    rewrite(here / "a", lambda tensors: tensors.update({EMBEDDINGS: torch.empty(0)}))
    alone(here, "./a")


def weights_in_one_flat_row(here: Path) -> None:
    """FSDP, with a sharded state dict."""
    tensors = load_file(here / "a" / WEIGHTS)
    flat = torch.cat([tensor.flatten() for tensor in tensors.values()])
    save_file({"_flat_param": flat}, here / "a" / WEIGHTS)
    alone(here, "./a")


def an_adapter_of_a_process_without_it(here: Path) -> None:
    factors = {UP: (torch.empty(0), torch.empty(0))}
    write_adapter(here / "lora", factors, r=2, lora_alpha=2)
    alone(here, "./base+./lora")


def a_pointer_of_git_lfs(here: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n"
    (here / "a" / WEIGHTS).write_text(pointer)


def a_conversion_alone(here: Path) -> None:
    (here / "a" / WEIGHTS).unlink()
    (here / "a/model-q4_k_m.gguf").write_bytes(b"GGUF")


def a_download_that_broke_off(here: Path) -> None:
    file = here / "a" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])


def a_decimal_comma_in_one_line(here: Path) -> None:
    file = here / "recipe.yaml"
    text = yaml.safe_dump(yaml.safe_load(file.read_text()), default_flow_style=True)
    file.write_text(text.replace("0.5", "0,5"))


def a_decimal_comma(here: Path) -> None:
    file = here / "recipe.yaml"
    file.write_text(file.read_text().replace("0.5", "0,5"))


def embeddings_and_head_that_drifted_apart(here: Path) -> None:
    """modules_to_save gives each of two tied modules a copy of its own."""
    tensors = tensors_of(0)
    del tensors["lm_head.weight"]
    shutil.rmtree(here / "base")
    write_checkpoint(here / "base", tensors)
    config(here / "base", tie_word_embeddings=True, architectures=["LlamaForCausalLM"])
    saved = {
        f"base_model.model.{name}": torch.randn(8, 8) for name in (EMBEDDINGS, "lm_head.weight")
    }
    write_adapter(
        here / "lora",
        random_factors({UP: (8, 8)}, 2),
        tensors=saved,
        modules_to_save=["embed_tokens", "lm_head"],
    )
    alone(here, "./base+./lora")


def half_of_the_name_of_a_dtype(here: Path) -> None:
    on_base(here, "./a", dtype="bfloat")


@pytest.mark.parametrize(
    ("left", "told"),
    [
        (an_embedding_of_a_process_without_it, "1 tensor saved while each process of the training"),
        (an_embedding_of_a_process_without_it, "stage3_gather_16bit_weights_on_model_save: true"),
        (weights_in_one_flat_row, "empty or flat: _flat_param"),
        (an_adapter_of_a_process_without_it, "has empty factors, [0] and [0]"),
        (an_adapter_of_a_process_without_it, "zero_to_fp32.py"),
        (a_pointer_of_git_lfs, "is a pointer of Git LFS, which stands for the file"),
        (a_conversion_alone, "model-q4_k_m.gguf: a conversion to GGUF"),
        (a_download_that_broke_off, "model.safetensors is truncated"),
        (a_decimal_comma_in_one_line, "a decimal number is written with a point, as 0.5"),
        (a_decimal_comma, "weight must be a number, not '0,5'; write the decimal point: 0.5"),
        (embeddings_and_head_that_drifted_apart, "the adapter changes each of the two apart"),
        (half_of_the_name_of_a_dtype, "unknown dtype 'bfloat'; did you mean 'bfloat16'?"),
    ],
)
def test_it_is_refused_by_its_name_until_it_is_saved_or_written_right(
    left: Callable[[Path], None], told: str, user: User
) -> None:
    left(user.directory)
    code, said = merged(user)
    assert code == 2
    assert told in said
    afresh(user.directory)
    assert merged(user)[0] == 0


@pytest.mark.parametrize("module", ["layers.0.mlp.up_proj", f"model.{UP}"])
def test_an_adapter_of_the_model_inside_or_around_finds_its_place(module: str, user: User) -> None:
    factors = random_factors({module: (8, 8)}, 2)
    write_adapter(user.directory / "lora", factors)
    alone(user.directory, "./base+./lora")
    assert merged(user)[0] == 0
    a, b = factors[module]
    ours = load_file(user.directory / "out" / WEIGHTS)[f"{UP}.weight"]
    torch.testing.assert_close(ours, tensors_of(0)[f"{UP}.weight"] + b @ a)


def test_a_dtype_is_stated_alike_in_every_place_of_a_config(user: User) -> None:
    for name in ("base", "a"):
        config(user.directory / name, torch_dtype="float32", text_config={"dtype": "float32"})
    on_base(user.directory, "./a", out_dtype="bfloat16")
    assert merged(user)[0] == 0
    written = json.loads((user.directory / "out/config.json").read_text())
    assert "float32" not in json.dumps(written)


def test_a_model_under_two_names_is_told(user: User) -> None:
    (user.directory / "link").symlink_to(user.directory / "a")
    on_base(user.directory, "./a", "./link")
    code, said = merged(user)
    assert code == 0
    assert "its weights are exactly those of ./a; they count twice" in said
