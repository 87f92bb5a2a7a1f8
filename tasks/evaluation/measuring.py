"""A suite made ready in this process, and checkpoints measured with it, in it or in its forks.

Imported in evaluation processes only.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
from functools import partial
from pathlib import Path
from typing import Any

from tasks.evaluation.backends import loaded
from tasks.evaluation.document_count import DocumentCount
from tasks.evaluation.halves import keep_half
from tasks.evaluation.in_looks import InLooks, NextJob
from tasks.evaluation.lm_eval_tasks import (
    check_clusters,
    check_code,
    load_tasks,
    set_examples,
    set_generation,
)
from tasks.evaluation.task_score import mean_of_repeats, task_score
from tasks.evaluation.writing_texts import write_texts
from tasks.processes.child import Send
from tasks.processes.model import Problem, torch_device

Generators = tuple[Any, Any, Any]
"""States of python's, numpy's and torch's random numbers."""
_LARGEST_BATCH = {"cuda": 64, "cpu": 32}
"""Where `batch_size: auto` begins; it is halved for as long as memory does not suffice."""
_ENOUGH_FOR_ALL_THREADS = 1 << 18


class Measuring:
    """A suite's tasks with their documents, and the libraries that it takes."""

    def __init__(self, job: dict[str, Any]) -> None:
        import_libraries()
        self._job = job
        self._settings: dict[str, Any] = job["settings"]
        # lm-eval resolves data files against the working directory; a suite, against its own.
        os.chdir(job["directory"])
        self._entries = load_tasks(job)
        self._tasks = {name: task for leaves in self._entries for name, task in leaves.items()}
        self._set_options(job)
        check_clusters(job["tasks"], self._entries)
        self._drawn: Generators | None = None
        """States of the random numbers after the prompts were built; None before."""
        self._encoded: Any = {}

    def _set_options(self, job: dict[str, Any]) -> None:
        for index, (entry, leaves) in enumerate(zip(job["tasks"], self._entries, strict=True)):
            place = f"tasks[{index}]"
            for name, task in leaves.items():
                check_code(task, entry["task"], self._settings["run_code"], f"{place}.task")
                set_generation(task, self._settings["generation"])
                if job["split"] is not None:
                    field = entry.get("cluster")
                    keep_half(task, name, field, job["split"], job["part"], place)

    def prepare(self, checkpoint: str) -> None:
        """Make prompts and tokens ready for all checkpoints with this one's tokenizer and template.

        It is done once, since a suite's code may count how often it is asked.
        """
        if self._drawn is not None:
            return
        from tasks.evaluation.requests import build, encode

        self._seed()
        self._encoded = encode(self._tasks, build(self._tasks, self._settings, checkpoint))
        for task in self._tasks.values():
            task.build_all_requests = _are_built
        self._drawn = _generators()

    def prove_alive(self) -> None:
        """In a fork, compute with all threads and look at a document of each task.

        A fork has only the thread that forked. Code that waits for another one hangs, and hangs
        here, where the parent expects a sign of life within seconds.
        """
        import torch

        torch.ones(_ENOUGH_FOR_ALL_THREADS).sum()
        for task in self._tasks.values():
            with contextlib.suppress(Exception):  # a mistake of the suite's is told later
                next(iter(task.eval_docs))

    def write_texts(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Write the text of documents; `tasks.evaluation.writing_texts` says how."""
        directory = Path(asked["directory"])
        return {"found": write_texts(self._entries, asked["ids"], directory, asked["most_bytes"])}

    def measure(
        self, asked: dict[str, Any], send: Send, next_job: NextJob | None = None
    ) -> dict[str, Any]:
        """The checkpoint's documents, with the batch size at which memory sufficed.

        Args:
            next_job: answers whether to go on, where the evaluation is looked at on its way.
        """
        device = torch_device(asked["device"])
        size = asked["batch_size"]
        if size == "auto":
            size = _LARGEST_BATCH[device.partition(":")[0]]
        self._seed()
        looks = None
        if asked["looks"] is not None or self._settings["repeats"] > 1:
            self.prepare(asked["checkpoint"])  # the same prompts in each share, and each time
        if asked["looks"] is not None:
            assert next_job is not None
            looks = InLooks(asked["looks"], self._entries, send, next_job)
        with loaded(self._settings, asked["checkpoint"], device, self._encoded) as model:
            return self._with_what_fits(model, size, send, looks)

    def _with_what_fits(
        self, model: Any, size: int, send: Send, looks: InLooks | None
    ) -> dict[str, Any]:
        """Measure with batches that memory suffices for."""
        while True:
            try:
                return {"batch_size": size} | self._measured(model, size, send, looks)
            except Exception as error:
                if size == 1 or not _is_out_of_memory(error):
                    raise
            size //= 2
            send({"halved": size})
            for instance in looks.all_instances if looks else self._instances():
                instance.resps, instance.filtered_resps = [], {}
            _free_memory()

    def _measured(self, model: Any, size: int, send: Send, looks: InLooks | None) -> dict[str, Any]:
        settings = self._settings
        requests = looks.requests if looks else 0
        count = DocumentCount(list(self._tasks.values()), settings["limit"], send, requests)
        model.begin(size, count.advance)
        self._go_on_from_prompts()
        if settings["repeats"] > 1:
            return self._repeated(model, looks)
        if looks:
            ask, report = partial(self._asked, model), partial(self._report, model)
            return looks.evaluate(ask, report)
        return self._report(model, self._asked(model, self._tasks, None))

    def _repeated(self, model: Any, looks: InLooks | None) -> dict[str, Any]:
        """Every document answered several times, each time with other random numbers; its value is
        the mean."""
        import torch

        if looks:
            raise Problem("answers are repeated, and shares of them cannot be looked at")
        found: list[dict[str, Any]] = []
        for repeat in range(self._settings["repeats"]):
            for instance in self._instances() if repeat else ():
                instance.resps, instance.filtered_resps = [], {}
            torch.manual_seed(self._settings["seed"] + repeat)
            model.observed = type(model.observed)()
            found.append(self._report(model, self._asked(model, self._tasks, None)))
        return mean_of_repeats(found)

    def _asked(
        self, model: Any, tasks: dict[str, Any], samples: dict[str, list[int]] | None
    ) -> dict[str, list[Any]]:
        """lm-eval's samples of some tasks, of all their documents or of those that are listed."""
        from lm_eval import evaluator

        settings = self._settings
        outcome = evaluator.evaluate(
            lm=model,
            task_dict={"tasks": tasks},
            limit=settings["limit"] if samples is None else None,
            samples=samples,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=settings["apply_chat_template"],
            fewshot_as_multiturn=settings["turns"],
            system_instruction=settings["system_instruction"],
            confirm_run_unsafe_code=bool(settings["run_code"]),
        )
        return dict(outcome["samples"])

    def _report(self, model: Any, samples: dict[str, list[Any]]) -> dict[str, Any]:
        return {
            "device": str(model.device),
            "truncated": len(model.observed.truncated),
            "scores": [
                task_score(index, entry, leaves, samples) | model.observed.counts(frozenset(leaves))
                for index, (entry, leaves) in enumerate(
                    zip(self._job["tasks"], self._entries, strict=True)
                )
            ],
        }

    def _instances(self) -> list[Any]:
        return [instance for task in self._tasks.values() for instance in task.instances]

    def _seed(self) -> None:
        """Begin as every measurement of this suite begins, whatever was drawn before."""
        import numpy
        import torch

        settings = self._settings
        for task in self._tasks.values():
            set_examples(task, settings["num_fewshot"], settings["seed"])
        random.seed(settings["seed"])
        numpy.random.seed(settings["seed"])  # the generator lm-eval's tasks draw from
        torch.manual_seed(settings["seed"])

    def _go_on_from_prompts(self) -> None:
        """Draw on from where random numbers were after the prompts, whenever those were built."""
        import numpy
        import torch

        if self._drawn is None:
            self._seed()
            return
        own, of_numpy, of_torch = self._drawn
        random.setstate(own)
        numpy.random.set_state(of_numpy)
        torch.manual_seed(self._settings["seed"])  # of other devices too
        torch.set_rng_state(of_torch)


def import_libraries() -> None:
    """Most of a small evaluation is imports; collecting garbage meanwhile costs a quarter more."""
    gc.disable()
    import tqdm  # type: ignore[import-untyped]

    # Its thread would hold a lock that a fork could not get.
    tqdm.tqdm.monitor_interval = 0
    import numpy  # noqa: F401
    import torch  # noqa: F401

    # Every architecture of transformers imports these two, which takes a third of all the time.
    import transformers.modeling_layers
    import transformers.modeling_utils  # noqa: F401
    from lm_eval import evaluator  # noqa: F401

    import tasks.evaluation.lm_eval_model  # noqa: F401

    with contextlib.suppress(ImportError):
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping

        # A thousand patterns, which else each fork would make anew for its model.
        get_checkpoint_conversion_mapping("llama")

    gc.freeze()
    gc.enable()


def _generators() -> Generators:
    import numpy
    import torch

    return random.getstate(), numpy.random.get_state(), torch.get_rng_state()


def _are_built(**_options: Any) -> None:
    """In place of a task's `build_all_requests`, once its requests are built."""


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether torch could not get the memory for a batch. A MemoryError of python's own, in a
    suite's code say, does not count: smaller batches would not help."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in said
        or "not enough memory" in said
        or "CUDA out of memory" in said
        or "ALLOC_FAILED" in said
    )


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
