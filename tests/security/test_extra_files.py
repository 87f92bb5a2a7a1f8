"""Files that nobody listed: they change what is loaded while every listed digest matches."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flows.cli import program
from merge_core.checkpoints.sources import describe_source
from merge_core.errors import CheckpointError
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.output.manifest import read_manifest, verify_manifest
from merge_core.records import CheckpointManifest
from tests.support.edited_objects import SUMS, contents, loosen, reseal

if TYPE_CHECKING:
    from tests.support.attacked_store import Merges

pytest_plugins = ["tests.support.attacked_store"]

EXTRAS = [
    "adapter_config.json",
    "adapter_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json.bak",
    "pytorch_model.bin",
    "modeling_evil.py",
    "custom_generate/generate.py",
    "additional_chat_templates/default.jinja",
    "chat_template.jinja",
    "tokenizer.model",
    "added_tokens.json",
    "generation_config.json",
    "processor_config.json",
    "Config.json",
    "\uff23onfig.json",
    "config.json ",
    "config\u200b.json",
    "new\nline.json",
    "\x1b[2J.json",
    ".hidden",
    ".cache/deep/inside/model.safetensors",
    "sha256sums",
    "SHA256SUMS.asc",
    "__pycache__/torch.cpython-311.pyc",
]


def put(directory: Path, name: str) -> None:
    """Add a file to a directory, whatever its modes."""
    loosen(directory)
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text("{}")


@pytest.mark.parametrize("name", EXTRAS)
def test_a_file_that_was_added_to_a_stored_checkpoint_is_noticed_and_is_gone_afterwards(
    name: str,
    merges: Merges,
    first: CheckpointManifest,
    sound: dict[str, str],
    told: pytest.LogCaptureFixture,
) -> None:
    place = merges.place(first)
    put(place, name)

    [problem] = verify_manifest(first, DigestMemo(None))
    assert problem.endswith(" is not listed")
    assert problem.isprintable()
    assert merges.merge().object_id == first.object_id

    assert contents(place) == sound
    assert first.object_id in told.text
    assert (merges.home.path / "store" / "set-aside").is_dir()


def empty_directory(place: Path) -> None:
    (place / "additional_chat_templates").mkdir()


def link_to_nothing(place: Path) -> None:
    (place / "adapter_config.json").symlink_to("/nowhere/at/all")


def link_to_a_directory(place: Path) -> None:
    (place / "additional_chat_templates").symlink_to(place.parent)


def link_to_a_listed_file(place: Path) -> None:
    (place / "model.safetensors").symlink_to("model-00001-of-00004.safetensors")


@pytest.mark.parametrize(
    "add", [empty_directory, link_to_nothing, link_to_a_directory, link_to_a_listed_file]
)
def test_directories_and_links_that_nobody_listed_are_noticed_too(
    add: Callable[[Path], None], merges: Merges, first: CheckpointManifest, sound: dict[str, str]
) -> None:
    place = merges.place(first)
    loosen(place)
    add(place)

    assert verify_manifest(first, DigestMemo(None), alone=True)
    assert merges.merge().object_id == first.object_id

    assert contents(place) == sound
    assert not [path for path in place.rglob("*") if path.is_dir() or path.is_symlink()]


LISTED = "{a}  a.json\n{b}  b.json\n{m}  mergeflow_manifest.json\n"
FORMS = {
    "binary marks": LISTED.replace("  ", " *"),
    "line ends of Windows": LISTED.replace("\n", "\r\n"),
    "an absolute path": LISTED + "{o}  {outside}\n",
    "a way up": LISTED + "{o}  ../outside.json\n",
    "a way up and down": LISTED.replace("a.json", "../out/a.json"),
    "a file twice": LISTED + "{a}  a.json\n",
    "a file twice, in another spelling": LISTED + "{a}  ./a.json\n",
    "a file twice, with other content": LISTED + "{o}  a.json\n",
    "large letters": LISTED.replace("{a}", "{A}"),
    "another order": "{m}  mergeflow_manifest.json\n{a}  a.json\n{b}  b.json\n",
    "no end": LISTED[:-1],
    "an empty line": LISTED + "\n",
    "a comment": "# all is well\n" + LISTED,
    "an escaped name": LISTED + "\\{o}  c\\\\n.json\n",
    "the form of BSD": LISTED.replace("{a}  a.json", "SHA256 (a.json) = {a}"),
    "a mark of its encoding": "\ufeff" + LISTED,
    "a line separator of Unicode": LISTED.replace("\n{b}", "\u2028{b}"),
    "no file at all": "",
    "its own digest": LISTED + "{o}  SHA256SUMS\n",
}


@pytest.fixture(scope="module")
def made(zoo: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merge that was written to a directory of the user's."""
    from merge_core.operations.merge import merge
    from merge_core.recipes.loading import parse_recipe

    root = tmp_path_factory.mktemp("made")
    recipe = parse_recipe({"merge_method": "linear", "models": [{"model": "a"}, {"model": "b"}]})
    merge(recipe, zoo, home=Home(root / "home"), out=root / "out", check=False)
    return root / "out"


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """The same in a copy, to be attacked."""
    return Path(shutil.copytree(made, tmp_path / "out"))


@pytest.mark.parametrize("form", FORMS)
def test_a_list_in_another_form_than_ours_is_not_read_as_one(
    form: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in out.glob("*"):
        if path.name != "mergeflow_manifest.json":
            path.unlink()
    (out / "a.json").write_text("{}")
    (out / "b.json").write_text("[]")
    (out.parent / "outside.json").write_text("outside")
    reseal(out)
    assert program.run(["check", str(out)]) == 0
    sums = contents(out)
    (out / SUMS).write_bytes(
        FORMS[form]
        .format(
            a=sums["a.json"],
            A=sums["a.json"].upper(),
            b=sums["b.json"],
            m=sums["mergeflow_manifest.json"],
            o=contents(out.parent)["outside.json"],
            outside=out.parent / "outside.json",
        )
        .encode()
    )

    assert program.run(["check", str(out)]) == 4
    assert "a.json has changed" not in capsys.readouterr().out


SHELL = Path("docs/checking.md")


def shell_check() -> str:
    """The commands that the documentation gives to people without mergeflow."""
    text = (Path(__file__).parents[2] / SHELL).read_text("utf-8")
    [block] = [part for part in text.split("```")[1::2] if "sha256sum -c" in part]
    return block.partition("\n")[2]


def test_the_command_and_the_shell_agree_on_what_holds(
    out: Path, merges: Merges, first: CheckpointManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    def both(directory: Path) -> tuple[int, bool]:
        code = program.run(["check", str(directory)])
        shell = subprocess.run(
            ["bash", "-c", shell_check()], cwd=directory, capture_output=True, check=False
        )
        return code, shell.returncode == 0

    assert both(out) == (0, True)
    assert both(merges.place(first)) == (0, True)
    for name in ("adapter_config.json", ".hidden", "deep/model.py"):
        put(out, name)
        assert both(out) == (4, False), name
        shutil.rmtree(out / "deep", ignore_errors=True)
        (out / name).unlink(missing_ok=True)
    assert both(out) == (0, True)
    changed = out / "config.json"
    changed.write_text(changed.read_text() + " ")
    assert both(out) == (4, False)
    assert program.run(["check", str(out.parent)]) == 2
    capsys.readouterr()


def test_the_command_tells_name_and_pointer_of_an_object_from_its_bytes(
    merges: Merges,
    first: CheckpointManifest,
    other: CheckpointManifest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def told(directory: Path) -> list[str]:
        code = program.run(["check", str(directory), "--json"])
        problems: list[str] = json.loads(capsys.readouterr().out)["problems"]
        assert code == (4 if problems else 0)
        return problems

    place = merges.place(first)
    assert told(place) == []
    false = merges.home.objects / ("f" * 64)
    shutil.copytree(place, false)
    assert told(false) == ["the sha256 of its SHA256SUMS is not its name"]
    backup = merges.home.path.parent / ("f" * 64)
    shutil.copytree(place, backup)
    assert told(backup) == ["the sha256 of its SHA256SUMS is not its name"]
    pointer = merges.home.path / "store" / "plans" / first.plan_digest
    pointer.write_text(f"{other.object_id}\n")
    assert told(place) == [f"the pointer of its plan leads to {other.object_id}"]


def test_a_recipe_that_names_an_edited_object_is_refused(
    merges: Merges, first: CheckpointManifest
) -> None:
    from tasks.sources.locate import fetch, locate

    place, memo = merges.place(first), DigestMemo(None)
    assert fetch(locate(str(place), merges.home), memo).digest == first.digest
    by_link = merges.home.path.parent / "link"
    by_link.symlink_to(place)
    put(place, "modeling_evil.py")
    reseal(place)

    for reference in (place, by_link, place / ".." / place.name):
        with pytest.raises(CheckpointError, match="is not its name") as refused:
            fetch(locate(str(reference), merges.home), memo)
        assert first.object_id in str(refused.value)


def test_an_unlisted_file_that_decides_what_a_model_is_counts_as_a_change_in_any_directory(
    zoo: dict[str, Any], tmp_path: Path
) -> None:
    from merge_core.store.vouching import confirm, departures

    place = shutil.copytree(zoo["a"].directory, tmp_path / "mine")
    source, memo = describe_source("mine", place, DigestMemo(None)), DigestMemo(None)
    (place / "README.md").write_text("my notes")
    (place / "checkpoint-500").mkdir()
    confirmed = confirm(source, memo)
    (place / "adapter_config.json").write_text("{}")

    assert departures(source, memo) == ["adapter_config.json is not listed"]
    with pytest.raises(CheckpointError, match="changed meanwhile"):
        confirmed.look_again()
    with pytest.raises(CheckpointError, match="is not listed"):
        confirm(source, memo)


def test_a_manifest_that_was_read_agrees_with_itself(
    merges: Merges, first: CheckpointManifest
) -> None:
    assert verify_manifest(read_manifest(merges.place(first)), DigestMemo(None), alone=True) == []
