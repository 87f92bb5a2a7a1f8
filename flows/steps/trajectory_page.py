"""A trajectory and its average as markdown, for the run's page and MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from merge_core.operations.trajectory.path import PathReport
from merge_core.operations.trajectory.records import Trajectory
from merge_core.text.markdown import Markdown, code, inline, table
from merge_core.text.plain import LONGEST
from tasks.search.greedy_soup import Soup


def trajectory_markdown(
    trajectory: Trajectory, path: PathReport, weights: Mapping[str, float], soup: Soup | None
) -> str:
    """Checkpoints with their weights and distances, then those left alone and why."""
    measured = any(each.metric is not None for each in trajectory.chosen)
    heads = ["checkpoint", "step", "weight", "distance to the one before"]
    heads += ["metric"] * measured
    rows = []
    known = [each.reference for each in trajectory.chosen]
    for reference, weight in weights.items():
        if reference not in known:
            rows.append(
                [Markdown(f"the running mean so far ({code(reference)})"), "", f"{weight:.4f}", ""]
            )
    distances = iter(path.distances)
    for each in trajectory.chosen:
        weight = weights.get(each.reference, 0.0)
        distance = next(distances, None) if each.reference in weights or soup else None
        row = [code(each.name), str(each.step), f"{weight:.4f}", _percent(distance)]
        rows.append(row + [f"{each.metric:g}" if each.metric is not None else ""] * measured)
    parts = [f"### Checkpoints of {code(trajectory.run)}", _table(heads, rows)]
    parts += [f"**Warning:** {inline(warning, LONGEST)}" for warning in path.warnings]
    if soup:
        parts += ["### Greedy soup", _soup_table(soup, [each.name for each in trajectory.chosen])]
    if trajectory.left_alone:
        reasons = [[code(each.name), each.reason] for each in trajectory.left_alone]
        parts += ["### Left alone", _table(["checkpoint", "why"], reasons)]
    return "\n\n".join(parts) + "\n"


def _soup_table(soup: Soup, names: Sequence[str]) -> str:
    best = soup.order[0]
    rows = [[code(names[best]), f"{soup.singles[best]:+.5f}", "", "the best alone"]]
    rows += [
        [
            code(names[trial.candidate]),
            f"{soup.singles[trial.candidate]:+.5f}",
            f"{trial.score:+.5f}",
            "taken" if trial.taken else "left: not better with it",
        ]
        for trial in soup.trials
    ]
    return _table(["checkpoint", "alone", "the soup with it", ""], rows)


def _percent(distance: float | None) -> str:
    return "" if distance is None else f"{distance:.3%}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(table(heads, rows, heads))
