"""Reads YAML written by people: safely, strictly, and with errors that name the place.

Shared by recipes, pipelines and suites, so that all three refuse the same mistakes in the same
words: duplicate keys, unknown keys ("did you mean"), values of the wrong kind.
"""

from __future__ import annotations

import copy
import re
import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from merge_core.errors import NoSuchFileError, RecipeError, did_you_mean
from merge_core.files.named_file import read_named
from merge_core.files.near_files import nearest_file
from merge_core.files.rule_words import rule_in_words
from merge_core.findings import printable

MAX_YAML_BYTES = 1 << 20
_MAX_VALUES = 100_000
_MAX_BRACKETS = 64
_LONGEST_KEY = 100
_LONGEST_NUMBER = 1000
"""Characters: few enough that Python agrees to print the number in a message."""
M = TypeVar("M", bound=BaseModel)


def load_yaml(source: Path | str, where: str | None = None) -> dict[str, Any]:
    """One YAML mapping from a file (`Path`) or a text (`str`).

    Raises:
        RecipeError: unreadable, over 1 MiB, not YAML, a key given twice, or not a mapping.
    """
    documents = load_yaml_documents(source, where)
    if len(documents) > 1:
        raise RecipeError(
            "there are several documents, divided by ---, where one is expected",
            where=where or (str(source) if isinstance(source, Path) else None),
        )
    return documents[0]


def load_yaml_documents(source: Path | str, where: str | None = None) -> list[dict[str, Any]]:
    """The YAML mappings, divided by `---`, of a file (`Path`) or a text (`str`); at least one.

    Raises:
        RecipeError: unreadable, over 1 MiB, not YAML, a key given twice, a tag that would build
            an object, aliases that multiply, or not mappings.
    """
    where = where or (str(source) if isinstance(source, Path) else "recipe")
    text = read_text(source) if isinstance(source, Path) else source
    documents = load_safely(text, StrictLoader, where)
    if not documents or documents == [None]:
        raise RecipeError("it is empty: there must be a mapping of keys to values", where=where)
    for number, document in enumerate(documents, 1):
        if not isinstance(document, dict):
            place = where if len(documents) == 1 else f"{where}: document {number}"
            raise RecipeError("this must be a mapping of keys to values", where=place)
    return documents


def load_safely(text: str, loader: type[yaml.SafeLoader], where: str) -> list[Any]:
    """The documents of a YAML text, whatever they are, in bounded time and memory.

    Args:
        loader: `BoundedLoader` or a subclass of it.

    Raises:
        RecipeError: over 1 MiB, or nothing that the loader takes.
    """
    if len(text) > MAX_YAML_BYTES:
        raise RecipeError("the file is larger than 1 MiB", where=where)
    try:
        return list(yaml.load_all(text, Loader=loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{where}:{mark.line + 1}" if mark else where
        problem = getattr(error, "problem", None) or str(error)
        if mark and "'`'" in problem:
            raise RecipeError(
                "``` is of Markdown, not of YAML: copy the lines between the two ```", where=line
            ) from None
        raise RecipeError(f"this is not valid YAML: {problem}", where=line) from None
    except RecursionError:
        raise RecipeError("this is nested too deeply", where=where) from None
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        # PyYAML's constructors of `!!int ""`, `!!bool x` and `!!timestamp x` fail like this.
        raise RecipeError(
            f"this holds a value that YAML cannot read: {printable(error)}", where=where
        ) from None


def read_text(path: Path) -> str:
    """A text file that a person wrote; of an endless one only as much as shows that it is.

    Raises:
        NoSuchFileError: it is not there.
        RecipeError: unreadable, no file, far too large, or not UTF-8.
    """
    try:
        content = read_named(path, 4 * MAX_YAML_BYTES + 1)
        if len(content) > 4 * MAX_YAML_BYTES:
            raise RecipeError("the file is larger than 1 MiB", where=str(path))
        return content.decode("utf-8")
    except FileNotFoundError:
        near = nearest_file(path)
        raise NoSuchFileError(
            "there is no such file",
            where=str(path),
            mend=f"did you mean {near}?" if near else None,
        ) from None
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise RecipeError("is not a text file", where=str(path)) from None


def dump_yaml(documents: Sequence[Mapping[str, Any]]) -> str:
    """A text that `load_yaml_documents` reads as these mappings, and that is safe to look at."""
    text = yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, explicit_start=False
    )
    return "".join(_written_out(c) if _is_unseen(c) else c for c in text)


def _is_unseen(character: str) -> bool:
    """Whether a character draws nothing or does something: the dumper puts it between quotes."""
    return not character.isprintable() and unicodedata.category(character) != "Zs"


def _written_out(character: str) -> str:
    if character == "\n":  # of the layout: one in a quoted text is written out by the dumper
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def validated(model: type[M], value: Any, where: str) -> M:
    """`value` as a `model`, or one error that lists every problem with its YAML path.

    Raises:
        RecipeError: the value does not fit the model.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise all_of([_problem(model, item) for item in error.errors()], where) from None


def examined(model: type[M], value: Any) -> tuple[M | None, list[list[str]]]:
    """`value` as a `model`, as far as it is one without its unknown keys, and every problem.

    What else is wrong with it can then be told in the same message.
    """
    try:
        return model.model_validate(value), []
    except ValidationError as error:
        items = error.errors()
    problems = [_problem(model, item) for item in items]
    if any(item["type"] != "extra_forbidden" for item in items):
        return None, problems
    try:
        known = _without(value, [item["loc"] for item in items])
        return model.model_validate(known), problems
    except (ValidationError, LookupError, TypeError):
        return None, problems


def all_of(problems: Sequence[Sequence[str]], where: str) -> RecipeError:
    """One error that lists several problems of a file, each of one line or more."""
    if len(problems) == 1:
        what, *more = problems[0]
        return RecipeError(what, where=where, details=more)
    return RecipeError(
        f"{len(problems)} problems:",
        where=where,
        details=[
            f"  {'  ' if number else '- '}{line}"
            for said in problems
            for number, line in enumerate(said)
        ],
    )


def _without(value: Any, places: Sequence[tuple[int | str, ...]]) -> Any:
    """A copy of nested mappings and lists without what lies at some places."""
    kept = copy.deepcopy(value)
    for place in places:
        holder = kept
        for step in place[:-1]:
            holder = holder[step]
        del holder[place[-1]]
    return kept


def yaml_path(parts: tuple[int | str, ...]) -> str:
    """`('models', 0, 'parameters')` as a person writes it: `models[0].parameters`."""
    path = ""
    for part in parts:
        step = part if isinstance(part, int) else _shortened(part)
        path += f"[{step}]" if isinstance(part, int) else f".{step}" if path else f"{step}"
    return path


def _shortened(key: object) -> str:
    """A key as messages show it: a stranger's may be of any length."""
    text = str(key)
    return text if len(text) <= _LONGEST_KEY else f"{text[:_LONGEST_KEY]}..."


class SaidInLines(ValueError):  # noqa: N818 - a message for `validated`, which raises the error
    """What a validator found, said in full: its lines are ours and stay lines."""


def _item(lines: list[str]) -> list[str]:
    return [f"  - {lines[0]}", *(f"    {line}" for line in lines[1:])]


def _problem(model: type[BaseModel], item: Any) -> list[str]:
    lines = isinstance(item.get("ctx", {}).get("error"), SaidInLines)
    sentence = _sentence(model, item)
    return sentence.split("\n") if lines else [sentence]


def _sentence(model: type[BaseModel], item: Any) -> str:
    path = yaml_path(item["loc"])
    if item["loc"][-1:] == ("[key]",):  # of a map whose keys may be any text
        key = printable(item["input"], _LONGEST_KEY)
        is_half = isinstance(item["input"], int)  # `{weight: 0,5}` are two keys
        hint = "; a decimal number is written with a point, as 0.5" if is_half else ""
        return f"{yaml_path(item['loc'][:-2])}: a key must be a text, not {key}{hint}"
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, item["loc"][:-1])
        key = _shortened(item["loc"][-1])
        return f"{path}: unknown key '{key}'; {did_you_mean(key, known)}"
    message = rule_in_words(item)
    return f"{path}: {message}" if path else message


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    current: Any = model
    is_key = False
    for part in loc:
        if is_key:  # of a map from names to models
            is_key = False
        elif isinstance(part, str) and isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(part)
            current = _model_in(field.annotation) if field else None
            is_key = field is not None and get_origin(field.annotation) is dict
    if isinstance(current, type) and issubclass(current, BaseModel):
        return [field.alias or name for name, field in current.model_fields.items()]
    return []


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        found = _model_in(inner)
        if found is not None:
            return found
    return None


class BoundedLoader(yaml.SafeLoader):
    """SafeLoader that refuses what is small as a text and endless as a value."""

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        """A bracket: of each one that is open PyYAML asks at every token whether it is a key."""
        if self.flow_level >= _MAX_BRACKETS:
            raise yaml.scanner.ScannerError(
                None, None, "brackets nested too deeply", self.get_mark()
            )
        super().fetch_flow_collection_start(token)

    def compose_document(self) -> yaml.Node | None:
        """A document's nodes, once it is known how many values they stand for."""
        node: yaml.Node | None = super().compose_document()
        if node is not None:
            _count_values(node, {})
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A whole number that can be printed."""
        if len(node.value) > _LONGEST_NUMBER:
            raise yaml.constructor.ConstructorError(
                None, None, "this number has too many digits", node.start_mark
            )
        return int(super().construct_yaml_int(node))

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """A text that can be written: `"\\ud800"` is half a character, which no file can hold."""
        text = str(self.construct_scalar(node))
        try:
            text.encode()
        except UnicodeEncodeError:
            raise yaml.constructor.ConstructorError(
                None, None, "this text holds half a surrogate pair", node.start_mark
            ) from None
        return text


BoundedLoader.add_constructor("tag:yaml.org,2002:int", BoundedLoader.construct_yaml_int)
BoundedLoader.add_constructor("tag:yaml.org,2002:str", BoundedLoader.construct_text)


def _count_values(node: yaml.Node, known: dict[int, int]) -> int:
    """The number of values in a node, each alias counted as all that it stands for.

    Raises:
        ConstructorError: there are too many, or endlessly many since an anchor holds itself.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    count = known.get(id(node))
    if count is None:
        known[id(node)] = _MAX_VALUES  # in place until it is known: itself within itself
        is_map = isinstance(node, yaml.MappingNode)
        parts = [part for pair in node.value for part in pair] if is_map else node.value
        count = known[id(node)] = 1 + sum(_count_values(part, known) for part in parts)
    if count > _MAX_VALUES:
        raise yaml.constructor.ConstructorError(
            None, None, f"with its aliases this holds over {_MAX_VALUES:,} values", node.start_mark
        )
    return count


class StrictLoader(BoundedLoader):
    """BoundedLoader that refuses a key given twice, which YAML's own rules forbid too."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{_shortened(key)}' is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what the loader would take for a number or for the end of a line, and
    what nobody would see."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        odd = not text.isascii() and any(map(_is_unseen, text))
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if odd else None)


_Dumper.add_representer(str, _Dumper.represent_text)


# YAML 1.1 takes 1e-8 for a word; people, YAML 1.2 and mergekit's users take it for a number.
for _resolver in (StrictLoader, _Dumper):
    _resolver.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)"),
        list("-+.0123456789"),
    )
