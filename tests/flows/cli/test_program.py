"""The command line: results, exit codes, messages, and how little it imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from flows.cli import program
from flows.cli.options import read_bytes
from merge_core.homes.home import Home
from tests.support.checkpoints import write_checkpoint

HEAVY = ("prefect", "mlflow", "lm_eval", "transformers", "huggingface_hub", "matplotlib")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe of three small checkpoints that belong together."""
    generator = torch.Generator().manual_seed(1)
    base = {
        "model.embed_tokens.weight": torch.randn(64, 32, generator=generator),
        "model.layers.0.mlp.up_proj.weight": torch.randn(32, 32, generator=generator),
    }
    write_checkpoint(tmp_path / "base", base)
    for name in ("code", "prose"):
        tuned = {
            key: value + 0.02 * torch.randn(value.shape, generator=generator)
            for key, value in base.items()
        }
        write_checkpoint(tmp_path / name, tuned)
    return write_recipe(tmp_path)


def write_recipe(directory: Path, **changes: Any) -> Path:
    values = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": name, "parameters": {"weight": 0.5}} for name in ("code", "prose")],
    } | changes
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_merge_writes_a_checkpoint_and_says_where(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "merged"
    assert program.run(["merge", str(recipe), str(out), "--threads", "1"]) == 0
    assert str(out) in capsys.readouterr().out
    assert (out / "model.safetensors").is_file()
    sums = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=out, check=False)
    assert sums.returncode == 0


def test_merge_speaks_json_to_programs(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run(["merge", str(recipe), str(tmp_path / "merged"), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["path"] == str(tmp_path / "merged")
    assert [entry["role"] for entry in manifest["inputs"]] == ["base", "model", "model"]


def test_merge_refuses_a_directory_that_exists_and_leaves_it_alone(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "taken"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    assert program.run(["merge", str(recipe), str(out)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_a_seed_on_the_command_line_replaces_the_recipes(recipe: Path, tmp_path: Path) -> None:
    models = [
        {"model": name, "parameters": {"weight": 0.5, "density": 0.5}} for name in ("code", "prose")
    ]
    random = write_recipe(tmp_path, merge_method="dare_linear", models=models)
    weights = []
    for number, seed in enumerate(("1", "1", "2")):
        out = tmp_path / f"merged-{number}"
        assert program.run(["merge", str(random), str(out), "--seed", seed]) == 0
        weights.append((out / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_a_seed_on_the_command_line_reaches_the_recipes_that_a_recipe_uses(
    recipe: Path, tmp_path: Path
) -> None:
    random = yaml.safe_load(recipe.read_text()) | {"name": "first", "merge_method": "dare_linear"}
    random["parameters"] = {"weight": 1.0, "density": 0.5}
    last = {"merge_method": "passthrough", "models": [{"model": "first"}]}
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump_all([random, last]))
    digests = []
    for seed in ("1", "1", "2"):
        out = tmp_path / f"two{len(digests)}"
        assert program.run(["merge", str(file), str(out), "--seed", seed]) == 0
        digests.append((out / "model.safetensors").read_bytes())
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("command", ["merge", "plan", "verify"])
def test_a_filter_that_fits_nothing_is_a_warning(
    recipe: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load(recipe.read_text()) | {"exclude": ["lm_hed", {"group": "mlp"}]}
    file = tmp_path / "typo.yaml"
    file.write_text(yaml.safe_dump(content))
    arguments = [str(tmp_path / "out")] if command == "merge" else []
    assert program.run([command, str(file), *arguments]) == 0
    warned = " ".join(capsys.readouterr().err.split())
    assert "exclude[0] (filter 'lm_hed') decides on no tensor" in warned
    assert "exclude[1]" not in warned


def test_shards_are_as_small_as_asked(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    assert program.run(["merge", str(recipe), str(out), "--shard-size", "9KB"]) == 0
    assert (out / "model-00001-of-00002.safetensors").is_file()


@pytest.mark.parametrize(
    ("text", "count"), [("5GB", 5 * 10**9), ("1.5 MiB", 3 * 2**19), ("9kb", 9000), ("70", 70)]
)
def test_sizes_are_read_as_people_write_them(text: str, count: int) -> None:
    assert read_bytes(text) == count


def test_a_size_that_is_none_is_a_usage_error(recipe: Path, tmp_path: Path) -> None:
    arguments = ["merge", str(recipe), str(tmp_path / "out"), "--shard-size", "big"]
    assert program.run(arguments) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merge_method": "task_arithmetics"}, "did you mean 'task_arithmetic'?"),
        ({"base_model": "./gone"}, "no such directory"),
        ({"dtype": "bfloat17"}, "bfloat17"),
        (
            {"models": [{"model": "code", "parameters": {"wieght": 0.5}}]},
            "did you mean 'weight'?",
        ),
    ],
)
def test_bad_input_is_one_message_with_exit_code_2_and_changes_nothing(
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    message: str,
) -> None:
    bad = write_recipe(tmp_path, **changes)
    assert program.run(["merge", str(bad), str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert not (tmp_path / "out").exists()


def test_a_bug_is_one_line_with_the_traceback_in_a_log(
    recipe: Path,
    home: Home,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("merge_core.planning.plan.make_plan", lambda *_, **__: 1 / 0)
    assert program.run(["plan", str(recipe)]) == 1
    error = capsys.readouterr().err
    assert "this is a bug" in error
    assert "Traceback" not in error
    assert "ZeroDivisionError" in (home.logs / "crash.log").read_text()


def test_a_plan_shows_what_a_merge_would_do_without_reading_weights(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], home: Home
) -> None:
    assert program.run(["plan", str(recipe), "--tensors"]) == 0
    text = capsys.readouterr().out
    assert "weight 0.5, 0.5" in text
    assert "model.layers.0.mlp.up_proj.weight" in text
    assert not home.digest_memo.exists(), "nothing was hashed"


def test_a_plan_for_programs_lists_every_tensor_with_its_place(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run(["plan", str(recipe), "--tensors", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [tensor["shape"] for tensor in plan["tensors"]] == [[64, 32], [32, 32]]
    assert all(tensor["offset"] > 0 for tensor in plan["tensors"])
    assert plan["bytes_read"] == 3 * 4 * (64 * 32 + 32 * 32)


def test_verify_ends_with_2_when_checkpoints_do_not_belong_together(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run(["verify", str(recipe), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    strangers = {
        "model.embed_tokens.weight": torch.randn(64, 32),
        "model.layers.0.mlp.up_proj.weight": torch.randn(32, 32),
    }
    write_checkpoint(tmp_path / "stranger", strangers)
    models = [{"model": "stranger", "parameters": {"weight": 0.5}}]
    assert program.run(["verify", str(write_recipe(tmp_path, models=models))]) == 2
    assert "not a fine-tune" in capsys.readouterr().out


def test_a_profile_measures_and_draws(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "vectors.png"
    assert program.run(["profile", str(recipe), "--plot", str(picture)]) == 0
    assert "cosine" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_methods_are_listed_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["methods"]) == 0
    assert "dare_ties" in capsys.readouterr().out
    assert program.run(["methods", "ties", "--json"]) == 0
    ties = json.loads(capsys.readouterr().out)
    assert {"weight", "density"} <= {parameter["name"] for parameter in ties["parameters"]}
    assert program.run(["methods", "tise"]) == 2
    assert "did you mean 'ties'?" in capsys.readouterr().err


def test_a_task_vector_taken_out_and_put_back_gives_the_expert(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert program.run(["task-vector", "extract", "base", "code", "vector"]) == 0
    assert program.run(["task-vector", "apply", "base", "vector", "again"]) == 0
    assert program.run(["task-vector", "apply", "base", "vector", "without", "--scale", "-1"]) == 0
    assert (tmp_path / "again/model.safetensors").is_file()
    assert program.run(["task-vector", "apply", "prose", "vector", "strange"]) == 2
    assert not (tmp_path / "strange").exists()


def test_the_environment_can_be_evaluated_by_a_shell(home: Home) -> None:
    script = f'eval "$({sys.executable} -m flows.cli env)" && echo "$MLFLOW_TRACKING_URI"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"sqlite:///{home.mlflow}/mlflow.db"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["task-vector", "apply", "--help"], ["merge", "--help"]],
)
def test_help_has_an_example(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(arguments) == 0
    assert "mergeflow " in capsys.readouterr().out


@pytest.mark.parametrize("command", ["merge", "plan", "methods", "--help"])
def test_plain_commands_import_nothing_heavy(command: str, recipe: Path, tmp_path: Path) -> None:
    arguments = {
        "merge": ["merge", str(recipe), str(tmp_path / "out")],
        "plan": ["plan", str(recipe)],
    }.get(command, [command])
    code = (
        "import sys; from flows.cli import program as cli; code = cli.run(sys.argv[1:]);"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr);"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().endswith("[]")


@pytest.mark.parametrize("command", [["plan"], ["merge", "--threads", "1"]])
def test_strict_refuses_a_parameter_that_has_no_effect(
    recipe: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    values = yaml.safe_load(recipe.read_text())
    values["parameters"] = {**values.get("parameters", {}), "lambda": 0.9, "smooth": True}
    recipe.write_text(yaml.safe_dump(values))
    out = [str(recipe.parent / "strict")] if command[0] == "merge" else []
    assert program.run([command[0], str(recipe), *out, *command[1:], "--strict"]) == 2
    assert "parameters.smooth" in capsys.readouterr().err
    assert not (recipe.parent / "strict").exists()
