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
from pathlib import Path

PACKAGES = ("merge_core", "tasks", "flows")
ROOT = Path(__file__).parents[2]
HOLE = "{}"
_MOST = 4
"""A sentence with more forms than that is one with holes: what varies in it are values."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
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
            for target, value in _bindings(statement):
                module.constants[target] = value
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    module.imported[alias.asname or alias.name] = (node.module, alias.name)
        for function, call in _calls(module.tree, ()):
            self.calls[_called(call)].append((module, function, call))
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
        for calls in self.calls.values():
            for module, functions, call in calls:
                for keyword in call.keywords:
                    if keyword.arg == "mend":
                        yield self._site(module, functions, keyword.value)
                place = self.fields.get(_called(call))
                if place is not None and place < len(call.args):
                    yield self._site(module, functions, call.args[place])
        for module in self.modules.values():
            yield from self._defaults(module)

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
                    for target, value in _bindings(statement):
                        if target == "mend" and isinstance(value, ast.Constant) and value.value:
                            yield self._site(module, (), value)

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
                return {value.value} if isinstance(value.value, str) and value.value else {""}
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
        if relays and not found - {""}:
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
        return found

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
                if isinstance(part.value, ast.Call) and _called(part.value) in _PROSE:
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
            bound = [
                self._element(value, index, module, scope, seen)
                for value, index in _bound(function, name)
            ]
            relays = sum(each is None for each in bound)
            if name in _parameters(function):
                given = self._given(function, name, seen)
                if not bound and not given:  # called by pickle, or by another library
                    raise RelayError
                bound += given
            if bound:
                texts = set().union(*(each for each in bound if each is not None))
                if relays and not texts - {""}:
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
        default = _default(function, name)
        owner = next(module for module, each in self.functions[function.name] if each is function)
        if default is not None:
            found.append(self.texts(default, owner, (), seen))
        position = _parameters(function).index(name)
        for module, scope, call in self.calls.get(function.name, ()):
            arguments = [word.value for word in call.keywords if word.arg == name]
            first = position - (_parameters(function)[0] in ("self", "cls"))
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
            if isinstance(value, ast.Call) and _called(value) != "get":
                return self._returned(value, module, functions, seen, index)
            found: Texts = set()
            relays = 0
            for item in self._items(value, module, functions):
                each = self._element(item, index, module, functions, seen)
                relays += each is None
                found |= each or set()
            return None if relays and not found - {""} else found
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
                stored = list(_stored(function, table.id))
                for value, index in _bound(function, table.id):
                    if index is None and not isinstance(value, ast.Name):
                        stored += self._items(value, module, functions)
                if stored:
                    return stored
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
        name = _called(call)
        if name == "get" and isinstance(call.func, ast.Attribute):
            return self._any(self._items(call, module, functions), module, functions, seen)
        found: Texts = set()
        targets = self.functions.get(name, [])
        here = [each for each in targets if each[0] is module]
        if not targets or (len(targets) > 1 and not here):
            raise UnresolvedError
        for owner, function in here or targets:
            for node in _own_nodes(function):
                if isinstance(node, ast.Return) and node.value is not None:
                    found |= self._element(node.value, index, owner, (function,), seen) or set()
        if not found:
            raise UnresolvedError
        return found


_PROSE = {"did_you_mean", "_declared", "_sentence_of"}
"""Functions whose answer is a part of a sentence; what others answer is a value."""


def _called(call: ast.Call) -> str:
    return getattr(call.func, "attr", None) or getattr(call.func, "id", "")


def _bindings(statement: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(statement, ast.Assign):
        for target in statement.targets:
            if isinstance(target, ast.Name):
                yield target.id, statement.value
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        yield ast.unparse(statement.target), statement.value


def _own_nodes(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions in it."""
    waiting: list[ast.AST] = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop(0)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            waiting[:0] = ast.iter_child_nodes(node)


def _bound(function: Function, name: str) -> Iterator[tuple[ast.expr, int | None]]:
    """The values that a function binds to a name, with the place in a tuple that is taken apart."""
    for node in _own_nodes(function):
        pairs: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif (isinstance(node, ast.AnnAssign) and node.value is not None) or isinstance(
            node, ast.NamedExpr
        ):
            pairs = [(node.target, node.value)]
        elif isinstance(node, ast.For | ast.comprehension):
            targets = node.target.elts if isinstance(node.target, ast.Tuple) else []
            for index, each in enumerate(targets):
                if isinstance(each, ast.Name) and each.id == name:
                    yield from _rows(node.iter, index)
        for target, value in pairs:
            if isinstance(target, ast.Name) and target.id == name:
                yield value, None
            elif isinstance(target, ast.Tuple):
                for index, each in enumerate(target.elts):
                    if isinstance(each, ast.Name) and each.id == name:
                        yield value, index


def _rows(table: ast.expr, index: int) -> Iterator[tuple[ast.expr, int | None]]:
    """`for a, b in TABLE`: each row of it, to be taken apart."""
    yield table, index


def _stored(function: Function, name: str) -> Iterator[ast.expr]:
    for node in _own_nodes(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if (
                    isinstance(target, ast.Subscript)
                    and isinstance(target.value, ast.Name)
                    and target.value.id == name
                ):
                    yield node.value


def _parameters(function: Function) -> list[str]:
    arguments = function.args
    return [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def _default(function: Function, name: str) -> ast.expr | None:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    count = len(arguments.defaults)
    pairs = list(zip(positional[len(positional) - count :], arguments.defaults, strict=True))
    given = {each.arg: value for each, value in pairs}
    for each, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if value is not None:
            given[each.arg] = value
    return given.get(name)


def _calls(
    node: ast.AST, functions: tuple[Function, ...]
) -> Iterator[tuple[tuple[Function, ...], ast.Call]]:
    for child in ast.iter_child_nodes(node):
        inner = functions
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = (*functions, child)
        if isinstance(child, ast.Call):
            yield inner, child
        yield from _calls(child, inner)


@cache
def printed_mends() -> dict[str, list[str]]:
    """Every template, with the places that print it."""
    found: dict[str, list[str]] = defaultdict(list)
    for site in Source().sites():
        for text in site.texts - {""}:
            found[text].append(site.place)
    return dict(found)


def pattern_of(template: str) -> re.Pattern[str]:
    """What a mend looks like in a message: at the end of a line, after the words for it."""
    pieces = map(re.escape, template.split(HOLE))
    return re.compile(rf"(?:what to do: |; |^){'.*?'.join(pieces)}[ .]*$", re.MULTILINE)
