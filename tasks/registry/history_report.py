"""The history of a model, read and held against what the registry says now."""

from __future__ import annotations

from merge_core.homes.home import Home
from merge_core.records import Record
from tasks.registry.addresses import find_model
from tasks.registry.alias_state import AliasState, alias_state
from tasks.registry.client import open_registry
from tasks.registry.history import History, HistoryLine, chains_elsewhere, find_histories
from tasks.registry.history_order import out_of_place, told_by_clocks
from tasks.registry.memory import canonical


class ChainReport(Record):
    """One chain of lines."""

    chain: str
    path: str
    lines: tuple[HistoryLine, ...]
    problems: tuple[str, ...]


class HistoryReport(Record):
    """What this home knows of a model's alias, and what the registry says beside it."""

    name: str
    registry: str
    holder: str | None
    """The version that has the alias now."""
    chains: tuple[ChainReport, ...]
    notes: tuple[str, ...]
    """What is no fault and should be known."""

    @property
    def holds(self) -> bool:
        """Whether every line is as it was written, and none is missing."""
        return not any(chain.problems for chain in self.chains)


def report_history(home: Home, tracking_uri: str, name: str) -> HistoryReport:
    """Read and verify the history of a registered model.

    Raises:
        MergeflowError: no such model is registered.
        StepError: MLflow refused.
    """
    with open_registry(tracking_uri) as registry:
        find_model(registry, name)
        state = alias_state(registry, name)
        address = registry.address
    found = find_histories(home, canonical(home, tracking_uri), name, state.tags)
    return HistoryReport(
        name=name,
        registry=address,
        holder=state.holder,
        chains=tuple(
            ChainReport(
                chain=history.chain,
                path=str(history.path),
                lines=tuple(history.lines),
                problems=tuple(history.all_problems(state.tags) or _order(history)),
            )
            for history in found
        ),
        notes=tuple(_notes(found, state)),
    )


def _order(history: History) -> list[str]:
    """A line that nobody could have written where it stands."""
    wrong = out_of_place(history)
    return [wrong] if wrong else []


def _notes(found: list[History], state: AliasState) -> list[str]:
    notes = []
    if not found:
        notes.append(
            "this home has no history of it yet: it begins with the next run, promote or rollback"
        )
    notes += [
        f"chain {chain} is another home's, or was lost: its lines are not here"
        for chain in chains_elsewhere(found, state.tags)
    ]
    notes += [f"{each.chain}: {doubt}" for each in found for doubt in told_by_clocks(each)]
    torn = [each.chain for each in found if each.torn]
    notes += [f"the last line of {chain} was not written to its end" for chain in torn]
    sound = [each for each in found if not each.all_problems(state.tags)]
    told = sound[0].holder() if sound else None
    if sound and told != state.holder and sound[0].open_intention() is None:
        now, then = state.holder or "none", told or "none"
        notes.append(f"the alias is on version {now}, and was on {then} at the last line here")
    stays = state.why_it_stays()
    if stays is not None:
        notes.append(f"runs leave the alias alone: {stays}")
    elif state.holder is None:
        notes.append("no version has the alias")
    return notes
