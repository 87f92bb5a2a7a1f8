"""The alias `champion`: who holds it, who may move it, and the move itself.

The registered model's tags say what our last move left (`mergeflow.champion`) and whether a person
chose the holder (`mergeflow.pin`), so every home that uses the registry sees both. A move is
written there before it is made: an alias that is elsewhere was moved by somebody else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from merge_core.errors import StepError
from merge_core.homes.home import Home
from merge_core.text.plain import plain
from tasks.registry.alias_lock import alias_lock
from tasks.registry.alias_state import NOTE_TAG, PIN_TAG, AliasState, Note, Pin, alias_state
from tasks.registry.client import Registry
from tasks.registry.database_lock import database_lock
from tasks.registry.history import HEAD_TAG, Event, History, HistoryLine, history_to_write
from tasks.registry.memory import canonical
from tasks.registry.serving_link import check_link, follow_alias, is_served
from tasks.registry.versions import CHAMPION
from tasks.units import timestamp

How = Literal["run", "promote", "rollback", "unpin"]
_LONGEST = 1000


class _Anyone:
    """Whoever holds the alias, it may be moved."""


ANYONE: Final = _Anyone()
Seen = str | None | _Anyone
"""The version that held the alias when it was decided to move it."""


@dataclass(frozen=True)
class Chosen:
    """What is written down of a decision on the alias."""

    how: How
    why: str | None = None
    by: str | None = None
    candidate: str | None = None
    digest: str | None = None
    run_id: str | None = None
    verdict: str | None = None
    files: str | None = None

    def facts(self) -> dict[str, str | None]:
        """As fields of a line of the history."""
        said = {"why": self.why and plain(self.why, _LONGEST), "by": self.by and plain(self.by)}
        return {
            **said,
            "how": self.how,
            "candidate": self.candidate,
            "digest": self.digest,
            "run_id": self.run_id,
            "verdict": self.verdict,
            "files": self.files,
        }


@dataclass
class AliasKeeper:
    """Moves the alias of one model and writes down what it does, under the home's lock.

    Args:
        home: whose lock and history are used; without one the registry's own tags are all.
        serve: make the link `serving/NAME`; one that is there is switched in any case.
    """

    registry: Registry
    name: str
    home: Home | None = None
    serve: bool = False
    _history: History | None = field(default=None, init=False)
    _locked: bool = field(default=False, init=False)
    _heads: dict[str, str] = field(default_factory=dict, init=False)

    def state(self) -> AliasState:
        """Who holds the alias now."""
        return alias_state(self.registry, self.name)

    def move(
        self,
        to: str,
        chosen: Chosen,
        *,
        seen: Seen = ANYONE,
        last_look: Callable[[], None] = lambda: None,
        pin: Pin | None = None,
    ) -> str | None:
        """Give the alias to a version.

        Args:
            seen: the holder when it was decided; another one now has been put there meanwhile.
            last_look: called directly before the move; raises when the version is not to be served.
            pin: written with the move. Without one it is a run that moves, which a pin stops.

        Returns:
            Why the alias stays where it is; None when it was moved.

        Raises:
            StepError: somebody else moved it meanwhile.
        """
        with self._alone():
            state = self.state()
            stays = state.why_it_stays() if pin is None else None
            if stays is not None:
                return stays
            if not isinstance(seen, _Anyone) and state.holder not in (seen, to):
                lost = self._lost(seen, state.holder)
                if self._begin(state) is not None:
                    said = {**chosen.facts(), "version": state.holder, "why": lost.what}
                    self._write("not_moved", **said)
                    self._remember_head()
                raise lost
            if self.home is not None and self._serves():
                check_link(self.registry, self.home, self.name)
            history = self._begin(state)
            moves = state.holder != to
            facts = {**chosen.facts(), "version": to, "previous": state.holder}
            intended = self._write("intended", **facts).number if history and moves else None
            if pin is not None:
                self._set_tag(PIN_TAG, pin.model_dump_json(exclude_none=True))
            elif state.pin is not None:  # of a version that has gone
                self.registry.client.delete_registered_model_tag(self.name, PIN_TAG)
            if moves:
                self._note(state.holder, chosen.how, state.note, moving_to=to)
                last_look()
                self.registry.client.set_registered_model_alias(self.name, CHAMPION, to)
                now = self.state().holder
                if now != to:
                    raise self._lost(to, now)
                back = chosen.how == "rollback"  # then the version before `to` is meant, not this
                self._note(to, chosen.how, None, previous=None if back else state.holder)
            elif state.note is None or state.note.version != to or state.note.moving_to:
                self._note(to, chosen.how, state.note)
            if history is not None:
                self._write("moved" if moves else "pinned", completes=intended, **facts)
                self._remember_head()
            self._let_link_follow(to)
            return None

    def keep(self, chosen: Chosen) -> None:
        """Write down a decision after which the alias stays where it is."""
        if self.home is None:
            return
        with self._alone():
            state = self.state()
            history = self._begin(state)
            assert history is not None
            facts = {**chosen.facts(), "version": state.holder}
            told = [line for line in history.lines if line.event != "signed"]
            last = told[-1] if told else None
            same = last is not None and _says(last.model_dump(), {**facts, "event": "kept"})
            if not same:  # else it is the same run, again
                self._write("kept", **facts)
                self._remember_head()
            self._let_link_follow(state.holder)

    def settle(self) -> AliasState:
        """Complete what a killed move left, and note who holds the alias where nothing did.

        Returns:
            Who holds it.
        """
        with self._alone():
            state = self.state()
            note = state.note
            if note is None and state.holder is not None:
                self._note(state.holder, "found", None)
            elif note is not None and note.moving_to and not state.moved_elsewhere:
                previous = note.version if state.holder == note.moving_to else None
                self._note(state.holder, note.how, note, previous=previous)
            if self._begin(state) is not None:
                self._remember_head()
            settled = self.state()
            if not self.serve:  # else it follows at the end of the step
                self._let_link_follow(settled.holder)
            return settled

    def release(self, chosen: Chosen) -> AliasState:
        """Let runs move the alias again.

        Returns:
            Who held it, and why it stayed.
        """
        with self._alone():
            state = self.state()
            self._begin(state)
            if state.pin is not None:
                self.registry.client.delete_registered_model_tag(self.name, PIN_TAG)
            self._note(state.holder, chosen.how, state.note)
            if self.home is not None:
                self._write("unpinned", **{**chosen.facts(), "version": state.holder})
                self._remember_head()
            return state

    def sign(self, make: Callable[[History], str], **facts: str) -> None:
        """Write down that a version was signed.

        Args:
            make: signs; is given how far the history goes, and gives the sha256 of the statement.
            facts: `version`, `run_id`, `key` and `why` of the line.
        """
        with self._alone():
            history = self._begin(self.state())
            assert history is not None
            self._write("signed", statement=make(history), **facts)
            self._remember_head()

    def _serves(self) -> bool:
        return self.home is not None and (self.serve or is_served(self.home, self.name))

    def _let_link_follow(self, holder: str | None) -> None:
        if self.home is not None and self._serves():
            follow_alias(self.registry, self.home, self.name, holder)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if self.home is None or self._locked:
            yield
            return
        with alias_lock(self.home), database_lock(self.registry.tracking_uri, self.name):
            self._locked, self._history = True, None
            try:
                yield
            finally:
                self._locked = False

    def _begin(self, state: AliasState) -> History | None:
        """The history, brought up to what the registry says."""
        if self.home is None:
            return None
        if self._history is not None:
            return self._history
        address = canonical(self.home, self.registry.tracking_uri)
        history = history_to_write(self.home, address, self.name, state.tags)
        self._history = history
        self._heads = {key: value for key, value in state.tags.items() if HEAD_TAG in key}
        if not history.digests:
            broken = "; ".join(f"the history {said}" for said in history.follows)
            self._write("found", version=state.holder, why=broken or "the history begins here")
            self._remember_head()
        begun = history.open_intention()
        if begun is not None:
            done = state.holder == begun.version
            self._write(
                "moved" if done else "not_moved",
                version=state.holder,
                previous=begun.previous,
                digest=begun.digest if done else None,
                how=begun.how,
                run_id=begun.run_id,
                files=begun.files,
                completes=begun.number,
                why="the command that began it was killed",
            )
        if history.holder() != state.holder:
            by_us = state.note is not None and not state.moved_elsewhere
            how = "another home" if by_us else None
            why = "moved by another home" if by_us else "moved outside of mergeflow"
            self._write("found", version=state.holder, previous=history.holder(), how=how, why=why)
        return history

    def _write(self, event: Event, **facts: object) -> HistoryLine:
        assert self.home is not None
        assert self._history is not None
        address = canonical(self.home, self.registry.tracking_uri)
        return self._history.append(event, registry=address, model=self.name, **facts)

    def _remember_head(self) -> None:
        assert self._history is not None
        key, head = HEAD_TAG + self._history.chain, str(self._history.head)
        if self._heads.get(key) != head:
            self._set_tag(key, head)
            self._heads[key] = head

    def _note(
        self,
        version: str | None,
        how: str,
        before: Note | None,
        *,
        moving_to: str | None = None,
        previous: str | None = None,
    ) -> None:
        note = Note(
            version=version,
            moving_to=moving_to,
            previous=previous or (before.previous if before else None),
            at=timestamp(),
            how=how,
            chain=self._history.chain if self._history else None,
        )
        self._set_tag(NOTE_TAG, note.model_dump_json(exclude_none=True))

    def _set_tag(self, key: str, value: str) -> None:
        self.registry.client.set_registered_model_tag(self.name, key, value)

    def _lost(self, expected: str | None, found: str | None) -> StepError:
        had = f"version {expected}" if expected else "no version"
        has = f"version {found} has it now" if found else "no version has it now"
        return StepError(
            f"somebody else moved the alias of {self.name} meanwhile: {had} was to have it, and"
            f" {has}",
            where=f"models:/{self.name}@{CHAMPION}",
            mend="look at that version; the same command again decides anew, beside it",
        )


def _says(line: Mapping[str, object], facts: Mapping[str, object]) -> bool:
    return all(line.get(key) == value for key, value in facts.items())
