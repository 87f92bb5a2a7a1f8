"""A process that evaluates the checkpoints of one suite, as the program that started it sees it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from merge_core.files.bounded_json import read_json
from merge_core.files.digests import digest_of
from merge_core.files.names import is_model_file, is_named_file, is_weight_file
from merge_core.files.private import PRIVATE_UMASK, child_umask, make_private_directory
from merge_core.records import SourceCheckpoint
from tasks.evaluation.suite import Suite, is_self_contained, suite_digest, task_directories
from tasks.hub_answers import hub_cache
from tasks.processes.child import Child, ChildEnd
from tasks.processes.model import OFFLINE, model_environment
from tasks.processes.secret_variables import HUB_TOKENS

ALIVE_SECONDS = 60.0
"""How long a fork may take to compute its first sum. One that waits for a lock of a thread that it
does not have waits for ever."""

Message = dict[str, Any]


class CannotForkError(Exception):
    """Nothing can be evaluated in forks of this process: evaluate in one that is not forked."""


class Purpose(NamedTuple):
    """What a process is made ready for. It takes evaluations of the same purpose, and no others."""

    suite_digest: str
    directory: str
    device: str
    threads: int | None


def purpose_of(suite: Suite, device: str, threads: int | None) -> Purpose:
    """The purpose of a process for this suite, as its files are now."""
    return Purpose(suite_digest(suite), suite.directory, device, threads)


@dataclass
class Evaluated:
    """What became of one evaluation."""

    end: ChildEnd
    messages: Message
    log: Path


class WrittenTexts(NamedTuple):
    """What became of the wish for the text of documents."""

    problem: str | None
    """Why there is none."""
    found: Sequence[Message] = ()
    """For each task of the suite what `write_texts` says of it."""
    files: Sequence[bytes | None] = ()
    """For each task of the suite its documents; None where they are not all there."""


class Worker:
    """One process, from its start to its end; everything below its directory goes with it."""

    def __init__(self, suite: Suite, purpose: Purpose, scratch: Path) -> None:
        """Raises OSError."""
        self.purpose = purpose
        self.evaluated = 0
        """How many checkpoints it has evaluated."""
        self.tokenizer: str | None = None
        """What `tokenizer_of` says of those; None before the first."""
        self._device = purpose.device
        self._batch_size = suite.settings.batch_size
        make_private_directory(scratch)
        self._directory = Path(tempfile.mkdtemp(prefix=f"{suite.name}-", dir=scratch))
        self._log = self._directory / "lm-eval.log"
        try:
            self._child = Child(
                "tasks.evaluation.process",
                log=self._log,
                environment=_environment(suite, self._directory, purpose.threads),
                umask=PRIVATE_UMASK if is_self_contained(suite) else child_umask(hub_cache()),
            )
            self._child.give(job_of(suite))
        except BaseException:
            shutil.rmtree(self._directory, ignore_errors=True)
            raise

    def has_ended(self) -> bool:
        """Whether there is no process any more."""
        return self._child.has_ended()

    def evaluate(
        self,
        checkpoint: SourceCheckpoint,
        listen: Callable[[Message], None],
        *,
        here: bool,
        minutes: float,
        batch_size: int | None = None,
        looks: Mapping[str, Any] | None = None,
        goes_on: Callable[[Message], bool] = lambda so_far: False,
    ) -> Evaluated:
        """Evaluate a checkpoint; `has_ended` tells afterwards whether it can do another.

        Args:
            here: in the process itself, as its last; otherwise in a fork of it.
            minutes: after this time the process is to be ended.
            looks: how many there are, and at which one each document is evaluated.
            goes_on: told what came of each look but the last, says whether there is another.

        Raises:
            CannotForkError: a fork of this process computes nothing, or nothing could be prepared.
        """
        log = self._log if here else self._directory / f"{checkpoint.short}-{self.evaluated}.log"

        def take(message: Message) -> None:
            listen(message)
            if "look" in message:
                self._child.give({"go_on": goes_on(message["look"])})

        started, said = time.monotonic(), _Said(take)
        self.evaluated += 1
        self.tokenizer = tokenizer_of(checkpoint)
        self._child.give(
            {
                "checkpoint": str(checkpoint.directory.absolute()),
                "device": self._device,
                "batch_size": batch_size or self._batch_size,
                "here": here,
                "looks": looks,
                "log": str(log),
            }
        )
        deadline = started + minutes * 60
        in_time = here or self._child.listen(deadline, said.take, said.is_forked)
        if "unprepared" in said.messages:
            raise CannotForkError
        if in_time and not here:
            first = min(deadline, time.monotonic() + ALIVE_SECONDS)
            if not self._child.listen(first, said.take, said.is_alive) and first < deadline:
                raise CannotForkError
        in_time = in_time and self._child.listen(deadline, said.take, said.is_over)
        code = said.messages.get("ended")
        if code is None and in_time:
            code = self._child.end()
        end = ChildEnd(code if in_time else None, time.monotonic() - started)
        if not log.exists() or log.stat().st_size == 0:
            log = self._log
        return Evaluated(end, said.messages, log)

    def texts(self, ids: Sequence[Sequence[str]], most_bytes: int, minutes: float) -> WrittenTexts:
        """Have the text of documents written, as the last thing that the process does.

        Args:
            ids: of the documents, for each task of the suite.
            most_bytes: of all texts together.
            minutes: after this time the process is to be ended.
        """
        directory = self._directory / "texts"
        asked = {"ids": ids, "most_bytes": most_bytes, "directory": str(directory)}
        said = _Said(lambda message: None)
        self._child.give({"texts": asked})
        in_time = self._child.listen(time.monotonic() + minutes * 60, said.take)
        self._child.end()
        if "result" not in said.messages:
            problem = said.messages.get("problem", {}).get("what")
            late = f"that took longer than {minutes:g} minutes"
            return WrittenTexts(problem or ("its process died" if in_time else late))
        found = said.messages["result"]["found"]
        paths = [directory / f"{place}.jsonl" for place in range(len(found))]
        files = [path.read_bytes() if path.exists() else None for path in paths]
        return WrittenTexts(None, found, files)

    def end(self) -> None:
        """End it, and all that it has started."""
        try:
            self._child.end()
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)


class _Said:
    """What a process has said since it was asked to evaluate."""

    def __init__(self, listen: Callable[[Message], None]) -> None:
        self.messages: Message = {}
        self._listen = listen

    def take(self, message: Message) -> None:
        self.messages.update(message)
        self._listen(message)

    def is_forked(self) -> bool:
        return "forked" in self.messages

    def is_alive(self) -> bool:
        return "alive" in self.messages or self.is_over()

    def is_over(self) -> bool:
        return "ended" in self.messages


def tokenizer_of(checkpoint: SourceCheckpoint) -> str:
    """Digest of all that prompts and tokens depend on."""
    files = {
        file.name: file.sha256
        for file in checkpoint.files
        if (is_model_file(file.name) or is_named_file(file.name))  # a merge's own record is neither
        and not is_weight_file(file.name)
        and file.name not in ("config.json", "generation_config.json")
    }
    config = read_json(checkpoint.directory / "config.json")
    # Where the tokenizer's own files do not say of which class it is, these do.
    return digest_of([files, config.get("model_type"), config.get("tokenizer_class")])


def job_of(suite: Suite) -> dict[str, Any]:
    """What a process needs to make a suite ready: the first job of `tasks.evaluation.process`."""
    directories = task_directories(suite)
    own = suite.include_directory
    return {
        "directory": suite.directory,
        "include": [str(path) for path in directories or ([own] if own else [])],
        "defaults": directories is None,
        "tasks": [task.model_dump() for task in suite.tasks],
        "settings": suite.settings.model_dump(mode="json")
        | {
            "repeats": suite.settings.repeats,
            "system_instruction": suite.settings.system_instruction,
            "turns": suite.settings.turns,
            "generation": suite.settings.generation.for_lm_eval()
            if suite.settings.generation
            else None,
            "run_code": list(suite.settings.run_code),
            "device_map": suite.settings.device_map,
            "backend": suite.settings.backend,
            "backend_options": suite.settings.backend_options,
            "server": suite.settings.server,
        },
        "split": suite.split.search if suite.split else None,
        "part": suite.part,
    }


def _environment(suite: Suite, working: Path, threads: int | None) -> Mapping[str, str]:
    code = {"HF_ALLOW_CODE_EVAL": "1"} if suite.settings.run_code else {}
    if not is_self_contained(suite):
        return model_environment(threads, keep=HUB_TOKENS) | code
    # A private cache: prepared data of another suite, or of an older file, can never be read.
    cache = working / "cache"
    private = {"HF_HOME": str(cache), "HF_DATASETS_CACHE": str(cache / "datasets")}
    return model_environment(threads) | OFFLINE | private | code
