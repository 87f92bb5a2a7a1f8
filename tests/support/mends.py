"""Every mend that the code can print, read from the source: a template with `{}` for values.

A mend is what follows "what to do:" in an error or a finding; in the source it is the argument
`mend=`. Its text may come by way of a variable, a table, a parameter or a function; those are
followed. What a test knows it by is the text alone: no file, no line, no name.
"""

from __future__ import annotations

import ast
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path

from tests.support.syntax_trees import (
    Function,
    bindings,
    bound,
    called,
    calls,
    default,
    grows,
    own_nodes,
    parameters,
    stored,
)

PACKAGES = ("merge_core", "tasks", "flows", "mergeflow")
ROOT = Path(__file__).parents[2]
HOLE = "{}"
_NONE = "\0"
"""What `None` stands for: no text, and so no part of a sentence either."""
_EMPTY = {"", _NONE}
_MOST = 4
"""A sentence with more forms than that is one with holes: what varies in it are values."""

Texts = set[str]


@dataclass
class Module:
    """One file: its functions, its constants, and what it imports by name."""

    name: str
    tree: ast.Module
    constants: dict[str, ast.expr] = field(default_factory=dict)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Site:
    """One `mend=` with the texts that it can be; `texts` is empty where it passes another's on."""

    place: str
    texts: frozenset[str]
    relays: bool


class UnresolvedError(Exception):
    """An expression whose texts cannot be told from the source."""


class RelayError(Exception):
    """The mend of another error, which has a site of its own."""


class Source:
    """The packages, parsed."""

    def __init__(self, root: Path = ROOT) -> None:
        self.modules: dict[str, Module] = {}
        self.functions: dict[str, list[tuple[Module, Function]]] = defaultdict(list)
        self.fields: dict[str, int] = {}
        """Classes whose instances are made by position, and the place of their mend."""
        self.calls: dict[str, list[tuple[Module, tuple[Function, ...], ast.Call]]] = defaultdict(
            list
        )
        for package in PACKAGES:
            for path in sorted((root / package).rglob("*.py")):
                self._read(path, ".".join(path.relative_to(root).with_suffix("").parts))

    def _read(self, path: Path, name: str) -> None:
        module = Module(name, ast.parse(path.read_text()))
        self.modules[name] = module
        for statement in module.tree.body:
            for target, value in bindings(statement):
                module.constants[target] = value
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    module.imported[alias.asname or alias.name] = (node.module, alias.name)
        for function, call in calls(module.tree, ()):
            self.calls[called(call)].append((module, function, call))
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self.functions[node.name].append((module, node))
            elif isinstance(node, ast.ClassDef):
                fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
                names = [ast.unparse(each.target) for each in fields]
                if "mend" in names:
                    self.fields[node.name] = names.index("mend")

    def sites(self) -> Iterator[Site]:
        """Every place that gives a mend."""
        for module, functions, call in chain.from_iterable(self.calls.values()):
            for keyword in call.keywords:
                if keyword.arg == "mend":
                    yield self._site(module, functions, keyword.value)
            place = self.fields.get(called(call))
            if place is not None and place < len(call.args):
                yield self._site(module, functions, call.args[place])
        for module in self.modules.values():
            yield from self._defaults(module)
            yield from self._written_out(module)

    def _site(self, module: Module, functions: tuple[Function, ...], value: ast.expr) -> Site:
        inner = functions[-1].name if functions else "module"
        place = f"{module.name}:{value.lineno}"
        try:
            return Site(place, frozenset(self.texts(value, module, functions)), relays=False)
        except RelayError:
            return Site(place, frozenset(), relays=True)
        except UnresolvedError:
            return Site(place, frozenset({f"<{inner}>"}), relays=False)

    def _defaults(self, module: Module) -> Iterator[Site]:
        """`mend: str = "..."` in a class."""
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                for statement in node.body:
                    for target, value in bindings(statement):
                        if target == "mend" and isinstance(value, ast.Constant) and value.value:
                            yield self._site(module, (), value)

    def _written_out(self, module: Module) -> Iterator[Site]:
        """Texts that say "what to do" themselves, beside the two classes that all others use."""
        inside: set[int] = set()
        for node in ast.walk(module.tree):
            if isinstance(node, ast.JoinedStr):
                inside |= {id(value) for value in node.values}
            elif isinstance(node, ast.Expr):  # a docstring
                inside.add(id(node.value))
            if not isinstance(node, ast.JoinedStr | ast.Constant) or id(node) in inside:
                continue
            try:
                texts = self.texts(node, module, ())
            except UnresolvedError:
                continue
            found = {match[1] for text in texts if (match := _WRITTEN.search(text))}
            if found:
                place = f"{module.name}:{node.lineno}"
                yield Site(place, frozenset(found), relays=False)

    def texts(
        self,
        value: ast.expr,
        module: Module,
        functions: tuple[Function, ...],
        seen: frozenset[int] = frozenset(),
    ) -> Texts:
        """What an expression can be, as templates; the empty text stands for no mend."""
        if id(value) in seen or len(seen) > 40:
            raise UnresolvedError
        seen |= {id(value)}
        match value:
            case ast.Constant():
                return {value.value if isinstance(value.value, str) else _NONE}
            case ast.JoinedStr():
                return self._joined(value, module, functions, seen)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                sides = [self._piece(side, module, functions, seen) for side in (left, right)]
                return {"".join(each) for each in itertools.product(*sides)}
            case ast.IfExp(body=first, orelse=second):
                return self._any([first, second], module, functions, seen)
            case ast.BoolOp(values=values):
                return self._any(values, module, functions, seen)
            case ast.Name():
                return self._named(value.id, module, functions, seen)
            case ast.Call():
                return self._returned(value, module, functions, seen, None)
            case ast.Attribute(attr="mend"):
                raise RelayError
            case ast.Subscript(slice=ast.Constant(value="mend")):
                raise RelayError
            case ast.Subscript(value=table):
                return self._any(self._items(table, module, functions), module, functions, seen)
        raise UnresolvedError

    def _any(
        self,
        values: Sequence[ast.expr],
        module: Module,
        functions: tuple[Function, ...],
        seen: frozenset[int],
    ) -> Texts:
        found: Texts = set()
        relays = 0
        for value in values:
            try:
                found |= self.texts(value, module, functions, seen)
            except RelayError:
                relays += 1
        if relays and not found - _EMPTY:
            raise RelayError
        if not values:
            raise UnresolvedError
        return found

    def _piece(
        self,
        value: ast.expr,
        module: Module,
        functions: tuple[Function, ...],
        seen: frozenset[int],
    ) -> Texts:
        """A part of a sentence: what it can be, or a hole."""
        try:
            found = self.texts(value, module, functions, seen)
        except (UnresolvedError, RelayError):
            return {HOLE}
        return found - {_NONE} or {HOLE}

    def _joined(
        self,
        value: ast.JoinedStr,
        module: Module,
        functions: tuple[Function, ...],
        seen: frozenset[int],
    ) -> Texts:
        pieces: list[Texts] = []
        for part in value.values:
            if isinstance(part, ast.FormattedValue):
                known = isinstance(part.value, ast.Name | ast.IfExp | ast.BoolOp)
                if isinstance(part.value, ast.Call) and called(part.value) in _PROSE:
                    known = True
                pieces.append(self._piece(part.value, module, functions, seen) if known else {HOLE})
            else:
                assert isinstance(part, ast.Constant)
                pieces.append({str(part.value)})
        if math.prod(map(len, pieces)) > _MOST:
            pieces = [piece if len(piece) == 1 else {HOLE} for piece in pieces]
        return {"".join(each) for each in itertools.product(*pieces)}

    def _named(
        self, name: str, module: Module, functions: tuple[Function, ...], seen: frozenset[int]
    ) -> Texts:
        for depth in range(len(functions), 0, -1):
            function = functions[depth - 1]
            scope = functions[:depth]
            values = [
                self._element(value, index, module, scope, seen)
                for value, index in bound(function, name)
            ]
            relays = sum(each is None for each in values)
            if name in parameters(function):
                given = self._given(function, name, seen)
                if not values and not given:  # called by pickle, or by another library
                    raise RelayError
                values += given
            if values:
                texts = set().union(*(each for each in values if each is not None))
                if grows(function, name):
                    texts = {text + HOLE for text in texts - _EMPTY}
                if relays and not texts - _EMPTY:
                    raise RelayError
                return texts
        if name in module.constants:
            return self.texts(module.constants[name], module, (), seen)
        if name in module.imported:
            other, original = module.imported[name]
            if other in self.modules and original in self.modules[other].constants:
                there = self.modules[other]
                return self.texts(there.constants[original], there, (), seen)
        raise UnresolvedError

    def _given(self, function: Function, name: str, seen: frozenset[int]) -> list[Texts | None]:
        """What callers give for a parameter, and its default."""
        found: list[Texts | None] = []
        usual = default(function, name)
        owner = next(module for module, each in self.functions[function.name] if each is function)
        if usual is not None:
            found.append(self.texts(usual, owner, (), seen))
        position = parameters(function).index(name)
        for module, scope, call in self.calls.get(function.name, ()):
            arguments = [word.value for word in call.keywords if word.arg == name]
            first = position - (parameters(function)[0] in ("self", "cls"))
            if not arguments and first < len(call.args):
                arguments = [call.args[first]]
            for argument in arguments:
                try:
                    found.append(self.texts(argument, module, scope, seen))
                except RelayError:
                    found.append(None)
        return found

    def _element(
        self,
        value: ast.expr,
        index: int | None,
        module: Module,
        functions: tuple[Function, ...],
        seen: frozenset[int],
    ) -> Texts | None:
        """One bound value, or the item of a tuple that was taken apart; None passes on."""
        try:
            if index is None:
                return self.texts(value, module, functions, seen)
            if isinstance(value, ast.Tuple):
                return self.texts(value.elts[index], module, functions, seen)
            if isinstance(value, ast.Call) and called(value) != "get":
                return self._returned(value, module, functions, seen, index)
            found: Texts = set()
            relays = 0
            for item in self._items(value, module, functions):
                each = self._element(item, index, module, functions, seen)
                relays += each is None
                found |= each or set()
            return None if relays and not found - _EMPTY else found
        except RelayError:
            return None

    def _items(
        self, table: ast.expr, module: Module, functions: tuple[Function, ...]
    ) -> list[ast.expr]:
        """The values of a table: a dictionary, a list, or what is stored under its keys."""
        if isinstance(table, ast.Call) and isinstance(table.func, ast.Attribute):
            return [*self._items(table.func.value, module, functions), *table.args[1:]]
        if isinstance(table, ast.Subscript):
            return self._items(table.value, module, functions)
        if isinstance(table, ast.Dict):
            return table.values
        if isinstance(table, ast.Tuple | ast.List):
            return table.elts
        if isinstance(table, ast.Name):
            for function in reversed(functions):
                items = list(stored(function, table.id))
                for value, index in bound(function, table.id):
                    if index is None and not isinstance(value, ast.Name):
                        items += self._items(value, module, functions)
                if items:
                    return items
            if table.id in module.constants:
                return self._items(module.constants[table.id], module, ())
        raise UnresolvedError

    def _returned(
        self,
        call: ast.Call,
        module: Module,
        functions: tuple[Function, ...],
        seen: frozenset[int],
        index: int | None,
    ) -> Texts:
        name = called(call)
        if name == "get" and isinstance(call.func, ast.Attribute):
            return self._any(self._items(call, module, functions), module, functions, seen)
        found: Texts = set()
        targets = self.functions.get(name, [])
        here = [each for each in targets if each[0] is module]
        if not targets or (len(targets) > 1 and not here):
            raise UnresolvedError
        for owner, function in here or targets:
            for node in own_nodes(function):
                if isinstance(node, ast.Return) and node.value is not None:
                    found |= self._element(node.value, index, owner, (function,), seen) or set()
        if not found:
            raise UnresolvedError
        return found


_WRITTEN = re.compile(r"what to do: (?!\{\}$|%s)([^\n]+)")
_PROSE = {"did_you_mean", "_declared", "_sentence_of"}
"""Functions whose answer is a part of a sentence; what others answer is a value."""


@cache
def printed_mends() -> dict[str, list[str]]:
    """Every template, with the places that print it."""
    found: dict[str, list[str]] = defaultdict(list)
    for site in Source().sites():
        for text in site.texts - _EMPTY:
            found[text].append(site.place)
    return dict(found)


def pattern_of(template: str) -> re.Pattern[str]:
    """What a mend looks like in a message: at the end of a line, after the words for it."""
    pieces = map(re.escape, template.split(HOLE))
    return re.compile(rf"(?:what to do: |; |^){'.*?'.join(pieces)}[ .]*$", re.MULTILINE)
