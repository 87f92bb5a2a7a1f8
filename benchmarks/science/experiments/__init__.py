"""The experiments, one file each, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from benchmarks.science.chapters import Chapter
from benchmarks.science.experiments import (
    averages,
    forgetting,
    groups,
    lengths,
    many,
    negation,
    scale,
    signs,
    soups,
    strangers,
)
from benchmarks.science.laboratory import Laboratory
from benchmarks.science.sizes import Size

EXPERIMENTS: Mapping[str, Callable[[Sequence[Laboratory], Size], Chapter]] = {
    "forgetting": forgetting.run,
    "scale": scale.run,
    "soups": soups.run,
    "negation": negation.run,
    "many": many.run,
    "signs": signs.run,
    "lengths": lengths.run,
    "groups": groups.run,
    "averages": averages.run,
    "strangers": strangers.run,
}
