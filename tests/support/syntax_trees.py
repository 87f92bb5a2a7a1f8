"""Names and values in Python's syntax trees: what is bound, called, stored and defaulted where."""

from __future__ import annotations

import ast
from collections.abc import Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef


def called(call: ast.Call) -> str:
    """The name of what is called: the last part of a dotted one."""
    return str(getattr(call.func, "attr", None) or getattr(call.func, "id", ""))


def bindings(statement: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """The names that an assignment binds, with the value."""
    if isinstance(statement, ast.Assign):
        for target in statement.targets:
            if isinstance(target, ast.Name):
                yield target.id, statement.value
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        yield ast.unparse(statement.target), statement.value


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions in it."""
    waiting: list[ast.AST] = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop(0)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            waiting[:0] = ast.iter_child_nodes(node)


def bound(function: Function, name: str) -> Iterator[tuple[ast.expr, int | None]]:
    """The values that a function binds to a name, with the place in a tuple that is taken apart."""
    for node in own_nodes(function):
        pairs: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            pairs.append((node.target, node.value))
        elif isinstance(node, ast.For | ast.comprehension):
            targets = node.target.elts if isinstance(node.target, ast.Tuple) else []
            for index, each in enumerate(targets):
                if isinstance(each, ast.Name) and each.id == name:
                    yield node.iter, index
        for target, value in pairs:
            if isinstance(target, ast.Name) and target.id == name:
                yield value, None
            elif isinstance(target, ast.Tuple):
                for index, each in enumerate(target.elts):
                    if isinstance(each, ast.Name) and each.id == name:
                        yield value, index


def grows(function: Function, name: str) -> bool:
    """Whether a function adds to what it has bound to a name: `name += value`."""
    return any(
        isinstance(node, ast.AugAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id == name
        for node in own_nodes(function)
    )


def stored(function: Function, name: str) -> Iterator[ast.expr]:
    """What a function stores in a table of this name: `name[key] = value`."""
    for node in own_nodes(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if (
                    isinstance(target, ast.Subscript)
                    and isinstance(target.value, ast.Name)
                    and target.value.id == name
                ):
                    yield node.value


def parameters(function: Function) -> list[str]:
    """Names of a function's parameters, in order."""
    arguments = function.args
    return [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def default(function: Function, name: str) -> ast.expr | None:
    """The default of a parameter."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    count = len(arguments.defaults)
    pairs = list(zip(positional[len(positional) - count :], arguments.defaults, strict=True))
    given = {each.arg: value for each, value in pairs}
    for each, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if value is not None:
            given[each.arg] = value
    return given.get(name)


def calls(
    node: ast.AST, functions: tuple[Function, ...]
) -> Iterator[tuple[tuple[Function, ...], ast.Call]]:
    """Every call below a node, with the functions that it is in, the innermost last."""
    for child in ast.iter_child_nodes(node):
        inner = functions
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = (*functions, child)
        if isinstance(child, ast.Call):
            yield inner, child
        yield from calls(child, inner)
