"""The task vector profile as one picture, small enough to travel inside a markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from merge_core.operations.profile import Section, TaskVectorProfile
from merge_core.tensors.names import stack_of
from merge_core.text.plain import plain
from tasks.reports.figures import GRID, INK, default_style, small_png
from tasks.reports.names import distinct_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a", "#000000")
_DPI = 120
_MAX_PAIR_LINES = 3
_MAX_LABELS = 12


def profile_figure_png(profile: TaskVectorProfile) -> bytes:
    """Lengths and sign conflicts by layer, cosines between models, what trimming keeps. A PNG."""
    with default_style():
        return _figure_png(profile)


def _figure_png(profile: TaskVectorProfile) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    names = [_clipped(plain(name)) for name in distinct_names(profile.models)]
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08, hspace=0.05, wspace=0.04)
    figure = Figure(figsize=(10.0, 6.8 if profile.pairs else 3.6), dpi=_DPI, layout=layout)
    canvas = FigureCanvasAgg(figure)
    if profile.pairs:
        axes = figure.subplots(2, 2, width_ratios=(1.6, 1.0))
        _draw_lengths(axes[0][0], profile, names)
        _draw_kept(axes[0][1], profile, names)
        _draw_conflicts(axes[1][0], profile, names)
        _draw_cosines(figure, axes[1][1], profile, names)
    else:
        left, right = figure.subplots(1, 2, width_ratios=(1.6, 1.0))
        _draw_lengths(left, profile, names)
        _draw_kept(right, profile, names)
        axes = [[left]]
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=min(4, len(labels)),
        fontsize=10,
        frameon=False,
        labelcolor=INK,
        handlelength=1.4,
    )
    canvas.draw()
    return small_png(canvas)


def _draw_lengths(axes: Axes, profile: TaskVectorProfile, names: Sequence[str]) -> None:
    parts = _parts(profile)
    for index, name in enumerate(names):
        values = [100 * section.relative_norms[index] for section in parts]
        _line(axes, profile, values, name, _COLOURS[index % len(_COLOURS)])
    axes.set_ylabel("% of the base's norm")
    axes.set_ylim(0, 1.06 * axes.get_ylim()[1])
    _finish(axes, "Length of the task vectors")
    _label_parts(axes, profile)


def _draw_conflicts(axes: Axes, profile: TaskVectorProfile, names: Sequence[str]) -> None:
    parts = _parts(profile)
    if len(profile.pairs) <= _MAX_PAIR_LINES:
        for index, (i, j) in enumerate(profile.pairs):
            values = [100 * section.conflicts[index] for section in parts]
            label = f"{names[i]}, {names[j]}"
            _line(axes, profile, values, label, _COLOURS[(index + 2) % len(_COLOURS)])
    else:
        low = [100 * min(section.conflicts) for section in parts]
        high = [100 * max(section.conflicts) for section in parts]
        inner = [k for k, section in enumerate(parts) if section in profile.layers]
        axes.fill_between(
            [_positions(profile)[k] for k in inner],
            [low[k] for k in inner],
            [high[k] for k in inner],
            color=_COLOURS[2],
            alpha=0.25,
            lw=0,
            label="single pairs, from least to most",
        )
        anyone = [100 * section.any_conflict for section in parts]
        _line(axes, profile, anyone, "any two of all models", _COLOURS[7])
    axes.axhline(50, color=INK, lw=0.8, ls=(0, (4, 3)))
    axes.annotate(
        "chance, for a pair",
        (1, 50),
        (-2, 2),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=INK,
    )
    axes.set_ylabel("% of weights both changed")
    axes.set_ylim(0, max(60, axes.get_ylim()[1] * 1.1))
    _finish(axes, "Signs in conflict")
    _label_parts(axes, profile)
    if len(profile.pairs) > 1:
        _legend(axes)


def _draw_kept(axes: Axes, profile: TaskVectorProfile, names: Sequence[str]) -> None:
    order = sorted(range(len(profile.densities)), key=lambda k: profile.densities[k])
    densities = [0.0, *(profile.densities[k] for k in order), 1.0]
    for index, name in enumerate(names):
        kept = [0.0, *(100 * profile.overall.kept[index][k] for k in order), 100.0]
        colour = _COLOURS[index % len(_COLOURS)]
        axes.plot(densities, kept, color=colour, lw=1.8, marker="o", ms=4, label=name)
    axes.plot([0, 1], [0, 100], color=INK, lw=0.8, ls=(0, (4, 3)))
    axes.set_xlabel("density: share of weights kept")
    axes.set_ylabel("% of squared norm kept")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 104)
    _finish(axes, "What trimming keeps")


def _draw_cosines(
    figure: Figure, axes: Axes, profile: TaskVectorProfile, names: Sequence[str]
) -> None:
    count = len(names)
    matrix = [[float("nan")] * count for _ in range(count)]
    for (i, j), cosine in zip(profile.pairs, profile.overall.cosines, strict=True):
        if cosine is not None:
            matrix[i][j] = matrix[j][i] = cosine
    axes.set_facecolor(GRID)
    image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    for i, j in profile.pairs if count <= _MAX_LABELS else ():
        cosine = matrix[i][j]
        for row, column in ((i, j), (j, i)):
            axes.text(
                column,
                row,
                "-" if cosine != cosine else f"{cosine:+.2f}",
                ha="center",
                va="center",
                fontsize=10 if count < 5 else 8,
                color="white" if abs(cosine) > 0.6 else INK,
            )
    numbers = [str(index + 1) for index in range(count)]
    axes.set_xticks(range(count), names if count == 2 else numbers)
    rows = names if count == 2 else [f"{name}  {k}" for name, k in zip(names, numbers, strict=True)]
    axes.set_yticks(range(count), rows)
    axes.tick_params(length=0, labelsize=9, colors=INK)
    axes.spines[:].set_visible(False)
    axes.set_title("Cosine between task vectors", loc="left", fontsize=11, color=INK)
    bar = figure.colorbar(image, ax=axes, shrink=0.85, ticks=[-1, 0, 1])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, colors=INK)


def _parts(profile: TaskVectorProfile) -> list[Section]:
    """The sections on the x axis: embeddings, the layers, the head; without layers all groups."""
    groups = {section.name: section for section in profile.groups}
    if not profile.layers:
        return list(groups.values())
    ends = [[groups[name]] if name in groups else [] for name in ("embeddings", "head")]
    return [*ends[0], *profile.layers, *ends[1]]


def _positions(profile: TaskVectorProfile) -> list[float]:
    """Where each part is along the x axis: embeddings and head stand clear of the layers."""
    parts = _parts(profile)
    gap = max(1.0, len(profile.layers) / 14)
    position, positions = 0.0, []
    for k, section in enumerate(parts):
        if k:
            both_layers = section in profile.layers and parts[k - 1] in profile.layers
            position += 1.0 if both_layers else gap
        positions.append(position)
    return positions


def _line(
    axes: Axes, profile: TaskVectorProfile, values: Sequence[float], label: str, colour: str
) -> None:
    """Layers joined by a line; embeddings and head, which are no layers, as separate markers."""
    parts, positions = _parts(profile), _positions(profile)
    inner = [k for k, section in enumerate(parts) if section in profile.layers]
    outer = [k for k in range(len(parts)) if k not in inner]
    for chosen, width, marker, size in (
        (inner, 1.8, "o", 4.0 if len(inner) <= 40 else 0.0),
        (outer, 0.0, "D", 5.0),
    ):
        axes.plot(
            [positions[k] for k in chosen],
            [values[k] for k in chosen],
            color=colour,
            lw=width,
            marker=marker,
            ms=size,
            label=label if chosen and (chosen is inner or not inner) else None,
        )


def _label_parts(axes: Axes, profile: TaskVectorProfile) -> None:
    parts, positions = _parts(profile), _positions(profile)
    labels = [_part_label(section) for section in parts]
    numbered = [k for k, section in enumerate(parts) if section in profile.layers]
    step = _tick_step(len(numbered))
    shown = [k for k in range(len(parts)) if k not in numbered or (k - numbered[0]) % step == 0]
    axes.set_xticks([positions[k] for k in shown], [labels[k] for k in shown])
    margin = max(0.5, 0.03 * positions[-1])
    axes.set_xlim(positions[0] - margin, positions[-1] + margin)
    stacks = [stack_of(section.name) for section in parts]
    for k in range(1, len(parts)):
        one, other = stacks[k - 1], stacks[k]
        if one and other and one[0] != other[0]:
            axes.axvline(positions[k] - 0.5, color=INK, lw=0.8)
    if profile.layers:
        axes.set_xlabel("layer")


def _tick_step(layers: int) -> int:
    """1, 2, 5, 10, ...: the first that gives at most a dozen ticks."""
    steps = (digit * int(10**k) for k in range(9) for digit in (1, 2, 5))
    return next(step for step in steps if layers <= 12 * step)


def _part_label(section: Section) -> str:
    stack = stack_of(section.name)
    name = _clipped(plain(section.name))
    return str(stack[1]) if stack else {"embeddings": "emb."}.get(name, name)


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(length=3, labelsize=9, color="#999999", labelcolor=INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(fontsize=9, color=INK)


def _legend(axes: Axes) -> None:
    axes.legend(fontsize=9, frameon=False, loc="lower left", labelcolor=INK)


def _clipped(name: str) -> str:
    return name if len(name) <= 24 else "..." + name[-21:]
