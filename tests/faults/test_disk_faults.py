"""Disks that are full or dying, and permissions that are lost: one clear message, nothing lost, and
the same command succeeds after the mend.

The faults are real: a file system of a few megabytes in a mount namespace of its own (an ordinary
user may make one on most Linux systems; where not, those tests are skipped), permissions with
root's capabilities dropped, and, for a disk that gives EIO, a preloaded library that makes the
system calls on one file fail (skipped where there is no C compiler).
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.crash_cases import (
    TENSOR_BYTES,
    TENSORS,
    THREADS,
    Case,
    merge_server,
    sums,
)
from tests.support.forked_commands import ForkedCommand, ForkServer, Signalled
from tests.support.processes import wait_until
from tests.support.traces import bytes_taken_over

CASE = Case("ties_global", 10 * TENSOR_BYTES)
DURING = Signalled(signal.SIGSTOP, line="progress\tmodel statistics 1")
"""The merge stops when it has read a part of its inputs."""
_FAILING_CALLS = Path(__file__).parents[1] / "support" / "failing_calls.c"
_UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")
_MORE = pytest.mark.slow
"""On cases beyond the first of their kind: `make crash` runs them all."""
_NEEDED_MB = 36
"""What the merge asks for: its output, and 32 MiB to spare."""


@pytest.fixture(scope="module")
def failing_calls(tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """The library that makes system calls fail, if there is a compiler to build it."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = tmp_path_factory.mktemp("library") / "failing_calls.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", library, _FAILING_CALLS, "-ldl"], check=True
    )
    return str(library)


@pytest.fixture(scope="module")
def may_mount() -> bool:
    """Whether this user can have file systems that nobody else sees."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return False
    tried = subprocess.run([*_UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    return tried.returncode == 0


@pytest.fixture(scope="module")
def server(models: Path, may_mount: bool, failing_calls: str | None) -> Iterator[ForkServer]:
    environment = {"LD_PRELOAD": failing_calls} if failing_calls else {}
    inside = _UNSHARE if may_mount else ()
    with merge_server(models, [CASE.recipe], inside=inside, environment=environment) as running:
        yield running


@pytest.fixture
def disk(may_mount: bool, server: ForkServer, tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of its own."""
    if not may_mount:
        pytest.skip("this system lets its users mount no file system of their own")
    disk = SmallDisk(server, tmp_path / "small")
    yield disk
    disk.unmount()


@pytest.fixture
def dying(failing_calls: str | None, tmp_path: Path) -> Path:
    """While this file is there, the calls fail that a test names; there is none at first."""
    if failing_calls is None:
        pytest.skip("no C compiler to build the failing system calls with")
    return tmp_path.parent / f"{tmp_path.name}.dying"


@pytest.fixture(scope="module")
def expected(server: ForkServer, models: Path, tmp_path_factory: pytest.TempPathFactory) -> object:
    """The files of an undisturbed merge."""
    directory = tmp_path_factory.mktemp("undisturbed")
    command = CASE.start(server, models, directory)
    assert command.wait() == 0, command.said
    return sums(directory / "out")


class SmallDisk:
    """A file system of a few megabytes that only the server and its commands see."""

    def __init__(self, server: ForkServer, place: Path) -> None:
        self.place = place
        self._server = server
        place.mkdir()

    def mount(self, megabytes: int) -> None:
        """Make it of this size."""
        options = f"size={megabytes}m"
        self._server.run_inside(["mount", "-t", "tmpfs", "-o", options, "none", str(self.place)])

    def grow(self, megabytes: int) -> None:
        """Make it of this size, with what is on it."""
        options = f"remount,size={megabytes}m"
        self._server.run_inside(["mount", "-o", options, str(self.place)])

    def unmount(self) -> None:
        self._server.run_inside(["umount", str(self.place)])

    @property
    def seen(self) -> Path:
        """Where this process finds it."""
        return self._server.root / self.place.relative_to("/")

    def fill(self) -> Path:
        """Leave no byte free; returns the file that takes the room."""
        filler = self.seen / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        return filler


def refused(command: ForkedCommand, *parts: str) -> None:
    """It ended with one message that says what was wrong and what to do."""
    assert command.wait() == 2, command.said
    assert command.said.count("error:") == 1
    assert command.said.count("what to do:") == 1
    assert "Traceback" not in command.said
    for part in parts:
        assert part in command.said, command.said


def tensors_taken_over(command: ForkedCommand) -> int:
    return bytes_taken_over(command.trace) // TENSOR_BYTES


@pytest.mark.slow
def test_a_disk_too_small_from_the_start_is_left_as_it_was(
    server: ForkServer, disk: SmallDisk, models: Path, expected: object
) -> None:
    disk.mount(_NEEDED_MB - 6)
    command = CASE.start(server, models, disk.place)
    refused(command, "GB free, the merge needs", "nothing was written")
    assert {path.name for path in disk.seen.iterdir()} <= {"home"}
    assert not (disk.seen / "home" / "store").exists()
    disk.grow(_NEEDED_MB + 10)
    again = CASE.start(server, models, disk.place)
    assert again.wait() == 0, again.said
    assert sums(disk.seen / "out") == expected


@pytest.mark.parametrize(
    ("moment", "kept"),
    [
        pytest.param("model-00001-of.*\twrite", 0, marks=_MORE, id="while it takes its room"),
        pytest.param("progress\tmodel statistics 1", TENSORS, id="while it computes"),
        pytest.param("config.json\twrite", TENSORS, marks=_MORE, id="while it writes the config"),
        pytest.param("SHA256SUMS\twrite", TENSORS, marks=_MORE, id="while it seals"),
    ],
)
@pytest.mark.slow
def test_a_disk_filled_meanwhile_keeps_finished_tensors(
    moment: str, kept: int, server: ForkServer, disk: SmallDisk, models: Path, expected: object
) -> None:
    disk.mount(_NEEDED_MB + 4)
    signalled = Signalled(signal.SIGSTOP, line=moment)
    command = CASE.start(server, models, disk.place, signalled=signalled)
    command.wait_until_stopped()
    filler = disk.fill()
    command.go_on()
    refused(command, "No space left on device", "run the same command again")
    assert not (disk.seen / "out").exists()
    filler.unlink()
    again = CASE.start(server, models, disk.place)
    assert again.wait() == 0, again.said
    assert tensors_taken_over(again) == kept
    assert sums(disk.seen / "out") == expected
    assert CASE.leftovers(disk.seen) == set()


@pytest.mark.parametrize(
    ("moment", "calls", "kept"),
    [
        pytest.param("progress\thash", "reads", 0, marks=_MORE, id="while it hashes"),
        pytest.param(
            "progress\tmodel statistics 1", "reads", 0, marks=_MORE, id="in the first pass"
        ),
        # Of the merge alone: the inputs may still be being hashed beside it.
        pytest.param("progress\tmerge", "preads", 1, id="in the last pass"),
    ],
)
def test_a_read_error_is_told_and_finished_tensors_are_kept(
    moment: str,
    calls: str,
    kept: int,
    server: ForkServer,
    dying: Path,
    models: Path,
    tmp_path: Path,
    expected: object,
) -> None:
    weights = models / "b" / "model.safetensors"
    last = weights.stat().st_size - TENSOR_BYTES
    fault = {"FAILING_CALLS": f"{calls} {weights} {last}", "FAILING_WHILE": str(dying)}
    signalled = Signalled(signal.SIGSTOP, line=moment)
    command = CASE.start(server, models, tmp_path, environment=fault, signalled=signalled)
    command.wait_until_stopped()
    dying.touch()
    command.go_on()
    refused(command, str(weights), "Input/output error")
    assert not (tmp_path / "out").exists()
    dying.unlink()
    again = CASE.start(server, models, tmp_path)
    assert again.wait() == 0, again.said
    assert tensors_taken_over(again) >= kept * (TENSORS - 1 - THREADS)
    assert sums(tmp_path / "out") == expected
    assert CASE.leftovers(tmp_path) == set()


@pytest.mark.parametrize(
    "file",
    [
        "SHA256SUMS",
        pytest.param("model-00002-of", marks=_MORE),
        pytest.param("config.json", marks=_MORE),
    ],
)
def test_after_a_sync_that_failed_nothing_written_is_believed(
    file: str, server: ForkServer, dying: Path, models: Path, tmp_path: Path, expected: object
) -> None:
    """The kernel may have dropped any page by then, and a second sync would not say so."""
    dying.touch()
    fault = {"FAILING_CALLS": f"syncs {file} 0", "FAILING_WHILE": str(dying)}
    command = CASE.start(server, models, tmp_path, environment=fault)
    refused(command, "Input/output error")
    assert not (tmp_path / "out").exists()
    dying.unlink()
    again = CASE.start(server, models, tmp_path)
    assert again.wait() == 0, again.said
    assert tensors_taken_over(again) == 0
    assert sums(tmp_path / "out") == expected


@pytest.mark.slow
def test_an_output_place_that_may_not_be_written_is_told_at_once(
    server: ForkServer, models: Path, tmp_path: Path, expected: object
) -> None:
    place = tmp_path / "place"
    (place / "home").mkdir(parents=True)
    place.chmod(0o555)
    command = CASE.start(server, models, place, drop_capabilities=True)
    refused(command, "Permission denied", "you may not write there")
    assert [path.name for path in place.iterdir()] == ["home"]
    place.chmod(0o755)
    again = CASE.start(server, models, place, drop_capabilities=True)
    assert again.wait() == 0, again.said
    assert sums(place / "out") == expected


def test_an_output_place_that_closes_meanwhile_keeps_finished_tensors(
    server: ForkServer, models: Path, tmp_path: Path, expected: object
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    command = CASE.start(server, models, place, drop_capabilities=True, signalled=DURING)
    command.wait_until_stopped()
    place.chmod(0o555)
    command.go_on()
    refused(command, "Permission denied", "you may not write there")
    assert not (place / "out").exists()
    place.chmod(0o755)
    again = CASE.start(server, models, place, drop_capabilities=True)
    assert again.wait() == 0, again.said
    assert tensors_taken_over(again) == TENSORS
    assert sums(place / "out") == expected


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["hash", "model statistics 1", "merge"])
def test_an_input_that_may_no_longer_be_read_is_told(
    moment: str, server: ForkServer, models: Path, tmp_path: Path, expected: object
) -> None:
    """Files that are open stay readable: a merge that needs to open none ends as if undisturbed."""
    weights = models / "b" / "model.safetensors"
    signalled = Signalled(signal.SIGSTOP, line=f"progress\t{moment}")
    command = CASE.start(server, models, tmp_path, drop_capabilities=True, signalled=signalled)
    command.wait_until_stopped()
    weights.chmod(0)
    try:
        command.go_on()
        assert wait_until(lambda: command.has_ended, 60)
        if moment == "hash" or not (tmp_path / "out").exists():
            refused(command, str(weights), "Permission denied", "get permission to read it")
    finally:
        weights.chmod(0o644)
    if not (tmp_path / "out").exists():
        again = CASE.start(server, models, tmp_path, drop_capabilities=True)
        assert again.wait() == 0, again.said
    assert sums(tmp_path / "out") == expected
