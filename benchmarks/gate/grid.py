"""The cells: what a gate meets, and what must come of it.

In a false-promotion cell the truth is exactly at the border that forbids a promotion, and all else
is as favourable as it can be, so that nothing but the tested part can refuse.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from benchmarks.gate.simulate import Cell
from benchmarks.gate.worlds import AT_MARGIN, Tail, World
from tasks.statistics.rule import GateRule

HELPER = World(400, 0.6, flips=0.3)
"""A task that certainly gained, so that the primary endpoint refuses nobody."""
NO_GUARD = GateRule(margin=4.0, widest_margin=4.0)
"""Guards that refuse nobody."""
POINTS_2 = 0.02 / 0.6**0.5 / 0.4**0.5
"""Two points of accuracy in units, for a baseline that is right in 60 %."""
GROUPS = {
    "groups of 5": (5,),
    "groups of 10": (10,),
}
UNEQUAL = {
    "groups of 2 to 10": (2, 4, 6, 8, 10),
    "three alone, one group of 10": (1, 1, 1, 10),
    "seven alone, one group of 20": (1, 1, 1, 1, 1, 1, 1, 20),
    "groups of 1 to 40": (1, 2, 3, 4, 6, 10, 15, 25, 40),
    "groups of 20": (20,),
    "groups of 40": (40,),
}
TAILS: tuple[Tail, ...] = ("normal", "t2.5", "skewed", "disaster", "disaster in long documents")


def cells() -> Iterator[Cell]:
    """All cells, family by family."""
    yield from _guards()
    yield from _guards_in_groups()
    yield from _guards_of_informative_groups()
    yield from _guards_of_scores()
    yield from _primary()
    yield from _planned()
    yield from _looks()
    yield from _too_few()
    yield from _power()
    yield from _retention()


def _guards() -> Iterator[Cell]:
    for n, flips in product((20, 50, 100, 200, 400, 1000), (0.0, 0.05, 0.1)):
        world = World(n, AT_MARGIN, flips=flips)
        yield Cell("0/1 task at its margin", f"n = {n}, {_flips(flips)}", (world, HELPER))
    for n in (50, 100, 400):
        world = World(n, AT_MARGIN, kind="fraction")
        name = f"n = {n}, averages of repeats"
        yield Cell("0/1 task at its margin", name, (world, HELPER))
    for tasks in (4, 10):
        worlds = (World(400, AT_MARGIN), *[HELPER] * (tasks - 1))
        yield Cell("0/1 task at its margin", f"n = 400, one of {tasks} tasks", worlds)


def _guards_in_groups() -> Iterator[Cell]:
    for (name, sizes), n, rho, flips in product(
        GROUPS.items(), (200, 400, 1000), (0.1, 0.3, 0.6, 1.0), (0.0, 0.1)
    ):
        world = World(n, AT_MARGIN, flips=flips, sizes=sizes, correlation=rho)
        yield Cell(
            "0/1 task at its margin, equal groups up to 10",
            f"{name}, correlation {rho:g}, n = {n}, {_flips(flips)}",
            (world, HELPER),
        )
    for (name, sizes), rho, (n, flips) in product(
        UNEQUAL.items(), (0.1, 0.3, 0.6), ((400, 0.0), (1000, 0.0), (1000, 0.1), (2000, 0.0))
    ):
        world = World(n, AT_MARGIN, flips=flips, sizes=sizes, correlation=rho)
        yield Cell(
            "0/1 task at its margin, unequal or large groups",
            f"{name}, correlation {rho:g}, n = {n}, {_flips(flips)}",
            (world, HELPER),
        )


def _guards_of_informative_groups() -> Iterator[Cell]:
    for name, rho, n in product(UNEQUAL, (0.1, 0.6), (400, 1000)):
        sizes = UNEQUAL[name]
        if len(set(sizes)) > 1:
            world = World(n, AT_MARGIN, flips=0.0, sizes=sizes, correlation=rho)
            yield Cell(
                "0/1 task at its margin, larger groups lose more",
                f"{name}, correlation {rho:g}, n = {n}",
                (replace(world, large_groups_lose=True), HELPER),
            )


def _guards_of_scores() -> Iterator[Cell]:
    for tail, n, long in product(TAILS, (20, 50, 100, 400), (False, True)):
        world = World(n, AT_MARGIN, kind="score", tail=tail, long_tailed_weights=long)
        yield Cell(
            "bits per byte at the margin",
            f"{tail}, n = {n}{_bytes(long)}",
            (world, HELPER),
        )
    layouts = {**GROUPS, **UNEQUAL}
    for tail, name, rho, n in product(
        ("normal", "skewed", "disaster", "disaster in long documents"),
        ("groups of 10", "groups of 1 to 40", "seven alone, one group of 20"),
        (0.3, 1.0),
        (400, 1000),
    ):
        world = World(n, AT_MARGIN, kind="score", tail=tail, sizes=layouts[name], correlation=rho)
        yield Cell(
            "bits per byte at the margin, groups",
            f"{tail}, {name}, correlation {rho:g}, n = {n}",
            (replace(world, long_tailed_weights=tail.endswith("long documents")), HELPER),
        )


def _primary() -> Iterator[Cell]:
    family = "mean change of exactly 0"
    for n, flips, tasks in product((50, 100, 400, 1000), (0.01, 0.03, 0.1), (1, 4)):
        worlds = (World(n, 0.0, flips=flips),) * tasks
        yield Cell(family, f"{tasks} x {n}, {_flips(flips)}, equal everywhere", worlds, NO_GUARD)
    for n in (50, 100, 400):
        losses = World(n, -0.1, flips=0.0)
        certain = World(400, 0.1, kind="score")
        yield Cell(
            family, f"bits per byte gain, n = {n} loses, losses only", (certain, losses), NO_GUARD
        )
        mixed = World(n, -0.1, flips=0.1)
        noisy = World(400, 0.1, kind="score", tail="t2.5")
        yield Cell(
            family, f"bits per byte gain, t2.5, n = {n} loses, 10 % flips", (noisy, mixed), NO_GUARD
        )
        gains = World(n, 0.15, flips=0.0)
        rest = (World(n, -0.05, flips=0.0),) * 3
        yield Cell(family, f"4 x {n}, one gains, three lose", (gains, *rest), NO_GUARD)
    grouped = {**GROUPS, "groups of 1 to 40": UNEQUAL["groups of 1 to 40"]}
    for (name, sizes), rho, n in product(grouped.items(), (0.3, 1.0), (400, 1000)):
        equal = World(n, 0.0, sizes=sizes, correlation=rho)
        where = f"{name}, correlation {rho:g}, n = {n}"
        yield Cell(family, f"{where}, equal", (equal,), NO_GUARD)
        losses = replace(equal, change=-0.1, flips=0.0)
        certain = World(400, 0.1, kind="score")
        yield Cell(family, f"{where} loses, bits per byte gain", (certain, losses), NO_GUARD)
    for tail in ("normal", "t2.5", "skewed"):
        yield Cell(
            family,
            f"bits per byte, {tail}, n = 100",
            (World(100, 0.0, "score", tail=tail),),
            NO_GUARD,
        )
    proving = replace(NO_GUARD, exceed=-0.05)
    for n in (50, 400):
        yield Cell(
            "mean change of exactly a negative `exceed`",
            f"4 x {n}, losses only",
            (World(n, -0.05, flips=0.0),) * 4,
            proving,
        )


def _planned() -> Iterator[Cell]:
    for n, shared, experts, sizes in product(
        (100, 400, 1000), (0.0, 0.5, 1.0), ((0.1,), (0.2, 0.02)), ((), (10,))
    ):
        world = World(
            n,
            AT_MARGIN,
            experts=experts,
            shared=shared,
            sizes=sizes,
            correlation=0.3 if sizes else 0.0,
        )
        where = ", groups of 10" if sizes else ""
        many = "one expert" if len(experts) == 1 else "two unlike experts"
        yield Cell(
            "margins planned from the same base and experts",
            f"n = {n}{where}, {many}, {shared:.0%} of flips are the candidate's",
            (world, HELPER),
        )


def _looks() -> Iterator[Cell]:
    five = GateRule(looks=5)
    family = "five looks"
    for sizes, rho in (((), 0.0), ((5,), 0.3), ((10,), 0.6), (UNEQUAL["groups of 1 to 40"], 0.3)):
        where = f"groups of up to {max(sizes)}, " if sizes else ""
        margin = World(1000, AT_MARGIN, sizes=sizes, correlation=rho)
        yield Cell(family, f"{where}a task at its margin", (margin, HELPER), five)
        equal = World(1000, 0.0, sizes=sizes, correlation=rho)
        yield Cell(family, f"{where}4 x 1000, equal", (equal,) * 4, replace(NO_GUARD, looks=5))
    binding = replace(five, futility=0.0)
    yield Cell(
        family, "a task at its margin, no futility", (World(400, AT_MARGIN), HELPER), binding
    )
    bits = World(400, AT_MARGIN, kind="score", tail="skewed")
    yield Cell(family, "bits per byte at the margin", (bits, HELPER), five)


def _too_few() -> Iterator[Cell]:
    family = "too few to say anything"
    for name, world in (
        ("n = 19", World(19, 0.6, flips=0.0)),
        ("nine groups of 40", World(360, 0.6, flips=0.0, sizes=(40,), correlation=0.5)),
        ("hundred alone, one group of 100", World(200, 0.6, sizes=(*([1] * 100), 100))),
    ):
        yield Cell(
            family, f"{name}, all better", (world, HELPER), share=0.0, target="promoted at most"
        )


def _power() -> Iterator[Cell]:
    for looks in (1, 5):
        rule = GateRule(looks=looks)
        where = "five looks" if looks == 5 else "one look"
        four = (World(400, POINTS_2, experts=(0.1,)),) * 4
        yield Cell("power", f"+2 points, 4 x 400, {where}", four, rule, "at least", 0.60)
        plain = (World(400, POINTS_2),) * 4
        yield Cell(
            "power", f"+2 points, 4 x 400, {where}, not planned", plain, rule, "at least", 0.60
        )
        many = (World(1000, POINTS_2, experts=(0.1,)),) * 4
        yield Cell("power", f"+2 points, 4 x 1000, {where}", many, rule, "shown")
        one = (World(400, POINTS_2, experts=(0.1,)),)
        yield Cell("power", f"+2 points, 1 x 400, {where}", one, rule, "shown")
        for size in (5, 10, 20):
            grouped = World(1000, POINTS_2, sizes=(size,), correlation=0.3, experts=(0.1,))
            name = f"+2 points, 4 x 1000, groups of {size}, {where}"
            yield Cell("power", name, (grouped,) * 4, rule, "shown")
        bits = World(100, 0.1, kind="score", tail="normal", experts=(0.2,))
        name = f"bits per byte 0.1 units better, 100 texts, {where}"
        yield Cell("power", name, (bits,), rule, "at least", 0.60)
    for name, change in (("-2 points", -POINTS_2), ("equal", 0.0), ("+4 points", 2 * POINTS_2)):
        four = (World(1000, change, experts=(0.1,)),) * 4
        yield Cell("stopping", f"{name}, 4 x 1000, five looks", four, GateRule(looks=5), "shown")


def _retention() -> Iterator[Cell]:
    family = "kept of an expert's 10 points"
    gained = 5 * POINTS_2
    for kept in (1.0, 0.8, 0.5, 0.2):
        world = World(
            400, kept * gained, flips=0.15, experts=(0.15,), expert_change=gained, shared=0.5
        )
        target = "refused at most" if kept == 0.8 else "shown"
        yield Cell(family, f"{kept:.0%}, n = 400", (world, HELPER), target=target)


def _flips(share: float) -> str:
    return "losses only" if share == 0 else f"{share:.0%} flips"


def _bytes(long_tailed: bool) -> str:
    return ", unequal bytes" if long_tailed else ""
