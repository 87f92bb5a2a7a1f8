"""What an evaluation shows beside its scores: how far it is, and which documents went oddly.

Imported in evaluation processes only: this module loads lm-eval.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook, TemplateLM

from tasks.evaluation.looping import is_looping

Advance = Callable[[int], None]
Document = tuple[str, int]
"""Task, and the document's number in it."""


@dataclass(frozen=True)
class Observed:
    """Documents on which something happened that their scores do not tell."""

    truncated: set[Document] = field(default_factory=set)
    """Their prompt lost its beginning to fit the context."""
    empty: set[Document] = field(default_factory=set)
    """The answer was nothing but blanks."""
    cut_off: set[Document] = field(default_factory=set)
    """The answer reached the largest number of tokens before it came to an end."""
    looping: set[Document] = field(default_factory=set)
    """The answer ends in repetitions of itself."""
    characters: dict[Document, int] = field(default_factory=dict)
    """Of all answers to a document."""

    def answered(self, document: Document, answer: str) -> None:
        """Note the form of one answer."""
        self.characters[document] = self.characters.get(document, 0) + len(answer.strip())
        if not answer.strip():
            self.empty.add(document)
        if is_looping(answer):
            self.looping.add(document)

    def counts(self, tasks: Set[str]) -> dict[str, int | None]:
        """How many of each kind there are in some tasks; None where there are no answers."""
        kinds = {"truncated": self.truncated, "empty": self.empty, "cut_off": self.cut_off}
        found: dict[str, int | None] = {
            kind: sum(task in tasks for task, _ in documents) for kind, documents in kinds.items()
        }
        lengths = [length for (task, _), length in self.characters.items() if task in tasks]
        if lengths:
            found["looping"] = sum(task in tasks for task, _ in self.looping)
            found["answer_characters"] = sum(lengths)
        return found


class Observing(TemplateLM):
    """Goes before one of lm-eval's models: reports finished requests, notes what happened."""

    is_length_told = True
    """Whether it is known of an answer that it reached the largest number of tokens."""

    def begin(self, batch_size: int, advance: Advance) -> None:
        """Forget what was observed, for an evaluation that starts from its beginning."""
        self.set_batch_size(batch_size)
        self.observed = Observed()
        self._advance = advance
        self._scored: Sequence[Instance] = ()
        self._asked: dict[str, deque[Instance]] = defaultdict(deque)
        """Requests for an answer that are not answered yet, by prompt and settings."""
        self._endless: deque[bool] = deque()
        """Of the answers generated last, whether each ran to the limit, in lm-eval's order."""
        self.set_cache_hook(_FinishedRequests(self))

    def set_batch_size(self, batch_size: int) -> None:
        """Sequences in one forward pass."""
        raise NotImplementedError

    @property
    def longest(self) -> int:
        """Most tokens of a context and what is scored after it."""
        return int(self.max_length) + 1

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        self._scored = requests
        answers: list[tuple[float, bool]] = super().loglikelihood(
            requests, disable_tqdm=disable_tqdm
        )
        return answers

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        self._scored = ()
        answers: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
        return answers

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **options: Any
    ) -> list[tuple[float, bool]]:
        for instance, (_, context, continuation) in zip(self._scored, requests, strict=False):
            if len(context) + len(continuation) > self.longest:
                self.observed.truncated.add(_document(instance))
        answers: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, **options)
        return answers

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        for instance in requests:
            prompt, options = instance.args
            room = self.max_length - int(options.get("max_gen_toks", self.max_gen_toks))
            if len(self.tok_encode(prompt)) > room:
                self.observed.truncated.add(_document(instance))
            self._asked[str(instance.args)].append(instance)
        answers: list[str] = super().generate_until(requests, disable_tqdm=disable_tqdm)
        return answers

    def finished(self, kind: str, request: Any, answer: Any) -> None:
        """One request has been answered."""
        if kind == "generate_until":
            instance = self._asked[str(request)].popleft()
            self.observed.answered(_document(instance), answer)
            if self.is_length_told and self._endless.popleft():
                self.observed.cut_off.add(_document(instance))
        self._advance(1)


def _document(instance: Instance) -> Document:
    # Documents that are evaluated in shares are counted anew in each.
    return str(instance.task_name), int(getattr(instance, "place", instance.doc_id) or 0)


class _FinishedRequests(CacheHook):
    """lm-eval tells its response cache about each answer; there is no cache, only an observer."""

    def __init__(self, model: Observing) -> None:
        super().__init__(None)
        self._model = model

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        self._model.finished(attr, req, res)
