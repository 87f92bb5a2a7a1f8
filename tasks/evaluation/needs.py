"""What a suite needs from outside, found missing before any weight is loaded or merged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from merge_core.errors import RecipeError
from merge_core.files.bounded_json import read_json
from tasks.evaluation.context import context_of
from tasks.evaluation.lm_eval_catalogue import lm_eval_catalogue
from tasks.evaluation.lm_eval_files import read_own_tasks, unreachable_data
from tasks.evaluation.suite import Suite
from tasks.hub_answers import hub_cache

_SECONDS = 10.0
"""How long the Hub may take to say that a data set is there."""


def check_needs(suite: Suite, model: Path) -> None:
    """Refuse a suite that cannot be evaluated here, or not with models like this one.

    Args:
        model: a checkpoint's directory; its config and tokenizer are looked at.

    Raises:
        RecipeError: says what is missing.
    """
    where = f"suite '{suite.name}' in {suite.directory}"
    _check_backend(suite, where)
    _check_template(suite, model, where)
    _check_context(suite, model, where)
    files = list(_configs(suite))
    for place, task, config in files:
        _check_code(suite, task, config, f"{where}: {place}")
    for place, _, config in files:
        _check_data(suite, config, f"{where}: {place}")


def _check_backend(suite: Suite, where: str) -> None:
    settings = suite.settings
    if settings.backend == "vllm" and find_spec("vllm") is None:
        raise RecipeError(
            "the suite is evaluated with vLLM, which is not installed here",
            where=f"{where}: settings.backend",
            mend="install it beside mergeflow (pip install vllm), or leave backend out",
        )
    if settings.server and shutil.which(settings.server[0]) is None:
        raise RecipeError(
            f"there is no program '{settings.server[0]}' to serve a checkpoint with",
            where=f"{where}: settings.server",
            mend="install it, or write its whole path",
        )


def _check_template(suite: Suite, model: Path, where: str) -> None:
    if not suite.settings.apply_chat_template:
        return
    files = ("chat_template.jinja", "chat_template.json")
    config = model / "tokenizer_config.json"
    has_one = any((model / name).is_file() for name in files) or (
        config.is_file() and read_json(config).get("chat_template")
    )
    if not has_one and not (model / "chat_templates").is_dir():
        raise RecipeError(
            f"prompts are to be wrapped in the tokenizer's chat template, and {model} has none",
            where=f"{where}: settings.apply_chat_template",
            mend="leave apply_chat_template out for base models, or name a model that has one",
        )


def _check_context(suite: Suite, model: Path, where: str) -> None:
    own = context_of(read_json(model / "config.json"))
    if own is None:
        return
    wanted = suite.settings.max_length
    if wanted is not None and wanted > own:
        raise RecipeError(
            f"max_length is {wanted}, and the context of {model} has {own} tokens",
            where=f"{where}: settings.max_length",
            mend=f"write at most {own}, or leave it out",
        )
    longest = suite.settings.generation and suite.settings.generation.max_gen_toks
    if longest and longest >= (wanted or own):
        raise RecipeError(
            f"answers may have {longest} tokens, and a prompt together with its answer only"
            f" {wanted or own}",
            where=f"{where}: settings.generation.max_gen_toks",
            mend="write a smaller number, so that a prompt fits in too",
        )


def _check_code(suite: Suite, task: str, config: dict[str, Any], where: str) -> None:
    if config.get("unsafe_code") and task not in suite.settings.run_code:
        raise RecipeError(
            f"task '{task}' executes what the model writes, on this machine",
            where=where,
            mend=f"write `run_code: [{', '.join([*suite.settings.run_code, task])}]` in the suite's"
            " settings, if you mean it and nothing depends on this machine; or leave the task out",
        )


def _check_data(suite: Suite, config: dict[str, Any], where: str) -> None:
    name = config.get("dataset_path")
    if not isinstance(name, str) or not unreachable_data(config, Path(suite.directory)).remote:
        return
    if "://" in name or _is_cached(name) or _is_on_hub(name):
        return
    raise RecipeError(
        f"the data set '{name}' is not on this machine, and the Hub does not give it",
        where=where,
        mend="let this machine reach the Hub once (HF_HUB_OFFLINE unset, HF_TOKEN for what needs a"
        " login), or use a suite whose data is beside it",
    )


def _configs(suite: Suite) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Place, name and content of each task file that can be read without running it. Groups of
    lm-eval's own are checked when they are loaded."""
    own = read_own_tasks(suite.include_directory)
    for index, task in enumerate(suite.tasks):
        files = own.get(task.task, ())
        if not files and task.task in (shipped := lm_eval_catalogue().tasks):
            files = read_own_tasks(shipped[task.task]).get(task.task, ())
        for file in files:
            yield f"tasks[{index}]", task.task, file.config


def _is_cached(name: str) -> bool:
    hub = hub_cache()
    prepared = Path(os.environ.get("HF_DATASETS_CACHE") or hub.parent / "datasets")
    return (hub / f"datasets--{name.replace('/', '--')}").is_dir() or (
        prepared / name.replace("/", "___")
    ).is_dir()


def _is_on_hub(name: str) -> bool:
    if any(os.environ.get(each) == "1" for each in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")):
        return False
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(name, timeout=_SECONDS)
    except Exception:  # whatever it is: it is not there
        return False
    return True
