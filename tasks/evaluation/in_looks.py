"""An evaluation in shares of the documents: after each one the program says whether to go on.

All prompts are built before the first share, so they are those of a whole evaluation. Imported in
evaluation processes only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks.processes.child import Send

NextJob = Callable[[], dict[str, Any]]
Samples = dict[str, list[Any]]
Ask = Callable[[dict[str, Any], dict[str, list[int]] | None], Samples]
"""Evaluates some tasks on the documents at some places."""


class InLooks:
    """Which documents of a suite's tasks are evaluated at which look."""

    def __init__(
        self,
        asked: dict[str, Any],
        entries: list[dict[str, Any]],
        send: Send,
        next_job: NextJob,
    ) -> None:
        """`entries` has the suite's tasks with their prompts; `asked` has the number of looks and
        the look of each document, in the order of a whole evaluation's report."""
        self._number: int = asked["number"]
        self._entries = entries
        self._send = send
        self._next_job = next_job
        self._answered = 0
        """The last look after which the program said to go on. When smaller batches begin anew, it
        is not asked again."""
        self._of_documents: dict[str, dict[int, list[Any]]] = {}
        self._look_of: dict[str, list[int]] = {}
        for looks, leaves in zip(asked["of"], entries, strict=True):
            rest = list(looks)
            for name, task in leaves.items():
                by_document: dict[int, list[Any]] = {}
                for instance in task.instances:
                    by_document.setdefault(instance.doc_id, []).append(instance)
                self._of_documents[name] = by_document
                self._look_of[name], rest = rest[: len(by_document)], rest[len(by_document) :]
            if rest or len(self._look_of[name]) != len(by_document):
                raise ValueError("the looks are not of this suite's documents")

    @property
    def all_instances(self) -> list[Any]:
        """Every request."""
        return [
            instance
            for by_document in self._of_documents.values()
            for instances in by_document.values()
            for instance in instances
        ]

    @property
    def requests(self) -> int:
        """How many there are, repeats counted."""
        return sum(instance.repeats for instance in self.all_instances)

    def evaluate(self, ask: Ask, report: Callable[[Samples], dict[str, Any]]) -> dict[str, Any]:
        """Evaluate share by share. Returns the report as of the last look that was wanted."""
        samples: Samples = {name: [] for name in self._of_documents}
        for look in range(1, self._number + 1):
            tasks, places = self._share(look)
            if tasks:
                for name, found in ask(tasks, places).items():
                    samples[name] += found
            done = {"look": look, "number": self._number}
            if look == self._number:
                return report(samples) | done
            if look <= self._answered or not self._has_some_of_each(samples):
                continue
            so_far = report(samples) | done
            self._send({"look": so_far})
            if not self._next_job()["go_on"]:
                return so_far
            self._answered = look
        raise AssertionError("the last look returns")

    def _share(self, look: int) -> tuple[dict[str, Any], dict[str, list[int]]]:
        tasks: dict[str, Any] = {}
        places: dict[str, list[int]] = {}
        for leaves in self._entries:
            for name, task in leaves.items():
                chosen = [
                    place
                    for place, document in enumerate(sorted(self._of_documents[name]))
                    if self._look_of[name][place] == look
                ]
                if not chosen:
                    continue
                instances = []
                for number, place in enumerate(chosen):
                    for instance in self._of_documents[name][place]:
                        instance.place = place
                        instance.doc_id = number  # as lm-eval counts what it is to evaluate
                        instances.append(instance)
                task._instances = instances
                tasks[name], places[name] = task, chosen
        return tasks, places

    def _has_some_of_each(self, samples: Samples) -> bool:
        return all(any(samples[name] for name in leaves) for leaves in self._entries)
