"""A method in a new file is found without an edit elsewhere; what is no method is not."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from merge_core.errors import RecipeError
from merge_core.methods import METHODS, find_method, method_named
from merge_core.methods.discovery import methods_of

ONE = """
from merge_core.methods.linear import Linear

class {kind}(Linear):
    name = "{name}"
"""
Write = Callable[..., ModuleType]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Makes a package of these files and imports it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(**files: str) -> ModuleType:
        for name, text in {"__init__": "", **files}.items():
            path = tmp_path.joinpath("a_room", *name.split("__in__")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return importlib.import_module("a_room")

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == "a_room"]:
        del sys.modules[name]


def test_every_method_is_found_and_the_plainest_come_first() -> None:
    assert list(METHODS)[:4] == ["linear", "passthrough", "slerp", "nuslerp"]
    assert list(METHODS)[32:35] == ["fisher", "regmean", "lm_cocktail"], "then those of new files"
    assert {"iso_c", "iso_cts", "knots", "star", "tsv_m", "wudi"} < set(METHODS)
    assert all(METHODS[name].name == name for name in METHODS)


def test_methods_of_commands_are_known_and_not_offered() -> None:
    for name in ("extract_task_vector", "apply_task_vector"):
        assert name not in METHODS
        assert find_method(name) is not None
    with pytest.raises(RecipeError) as caught:
        method_named("extract_task_vectors")
    assert "extract_task_vector;" not in str(caught.value)


def test_a_new_file_is_a_new_method_after_the_families_that_are_known(room: Write) -> None:
    found, internal = methods_of(
        room(
            another=ONE.format(kind="Another", name="another"),
            linear=ONE.format(kind="Plain", name="plain"),
            group__in____init__="",
            group__in__deep=ONE.format(kind="Deep", name="deep"),
            internal=ONE.format(kind="Inner", name="inner"),
        )
    )
    assert list(found) == ["plain", "another", "deep"]
    assert list(internal) == ["inner"]


def test_what_is_imported_or_private_is_no_method_of_a_file(room: Write) -> None:
    text = (
        ONE.format(kind="_Shared", name="shared") + "\nclass Visible(_Shared):\n    name = 'seen'"
    )
    assert list(methods_of(room(one=text))[0]) == ["seen"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            ONE.format(kind="One", name="same") + ONE.format(kind="Two", name="same"),
            "two methods are called 'same': One and Two",
        ),
        (
            "from merge_core.methods.base import Method\n"
            "class Nameless(Method):\n    def kernel(self, job): ...\n",
            "the method Nameless has no name",
        ),
        (
            "from merge_core.methods.base import Method\n"
            "class Empty(Method):\n    name = 'empty'\n",
            "Can't instantiate abstract class Empty",
        ),
    ],
)
def test_a_method_that_is_not_complete_is_an_error_at_once(
    room: Write, text: str, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        methods_of(room(one=text))
