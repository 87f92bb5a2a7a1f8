"""Inputs that change under the reader, and several processes that want the same place."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.crash_cases import TENSOR_BYTES, Case, merge_server, sums
from tests.support.forked_commands import ForkedCommand, ForkServer, Signalled
from tests.support.traces import bytes_taken_over

OUT = Case("ties_global", 10 * TENSOR_BYTES)
STORE = Case("ties_global", 10 * TENSOR_BYTES, store=True)
_MORE = pytest.mark.slow
"""On cases beyond the first of their kind: `make crash` runs them all."""
IN_THE_MERGE = Signalled(signal.SIGSTOP, line="progress\tmerge")
"""The merge stops when it is about to compute its first tensor."""


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ForkServer]:
    with merge_server(models, [OUT.recipe]) as running:
        yield running


@pytest.fixture(scope="module")
def expected(server: ForkServer, models: Path, tmp_path_factory: pytest.TempPathFactory) -> object:
    """The files of an undisturbed merge."""
    directory = tmp_path_factory.mktemp("undisturbed")
    assert OUT.start(server, models, directory).wait() == 0
    return sums(directory / "out")


@pytest.fixture
def weights(models: Path) -> Iterator[Path]:
    """The weights of an input, to be changed; afterwards they are as they were."""
    path = models / "b" / "model.safetensors"
    content = path.read_bytes()
    yield path
    path.write_bytes(content)


def stopped(command: ForkedCommand) -> ForkedCommand:
    command.wait_until_stopped()
    return command


def change_a_weight(weights: Path) -> None:
    """Other content of the same length, written in place."""
    with weights.open("r+b") as file:
        file.seek(-2, 2)
        last = file.read(2)
        file.seek(-2, 2)
        file.write(bytes([last[0] ^ 1, last[1]]))


def refused(command: ForkedCommand, *parts: str) -> None:
    """It ended with one message that says what was wrong and what to do."""
    assert command.wait() == 2, command.said
    assert command.said.count("error:") == 1
    assert command.said.count("what to do:") == 1
    assert "Traceback" not in command.said
    for part in parts:
        assert part in command.said, command.said


@pytest.mark.parametrize("case", [OUT, pytest.param(STORE, marks=_MORE)], ids=str)
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(r"/b\t(\d+)\t\1$", id="after it was hashed"),
        pytest.param("progress\tmodel statistics 1", marks=_MORE, id="in the first pass"),
        pytest.param("progress\tmerge", marks=_MORE, id="before the last pass"),
    ],
)
def test_an_input_that_changes_under_the_reader_is_never_in_a_checkpoint(
    moment: str, case: Case, server: ForkServer, models: Path, tmp_path: Path, weights: Path
) -> None:
    disturbed = tmp_path / "disturbed"
    disturbed.mkdir()
    signalled = Signalled(signal.SIGSTOP, line=moment)
    command = stopped(case.start(server, models, disturbed, signalled=signalled))
    change_a_weight(weights)
    command.go_on()
    refused(command, "changed")
    assert case.results(disturbed) == []
    again = case.start(server, models, disturbed)
    assert again.wait() == 0, again.said
    assert bytes_taken_over(again.trace) == 0
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    assert case.start(server, models, undisturbed).wait() == 0
    assert sums(case.results(disturbed)[0]) == sums(case.results(undisturbed)[0])


def test_an_input_that_is_cut_short_under_the_reader_is_told(
    server: ForkServer, models: Path, tmp_path: Path, weights: Path, expected: object
) -> None:
    content = weights.read_bytes()
    command = stopped(OUT.start(server, models, tmp_path, signalled=IN_THE_MERGE))
    with weights.open("r+b") as file:
        file.truncate(len(content) // 2)
    command.go_on()
    refused(command, str(weights))
    assert OUT.results(tmp_path) == []
    weights.write_bytes(content)
    again = OUT.start(server, models, tmp_path)
    assert again.wait() == 0, again.said
    assert sums(tmp_path / "out") == expected


def test_of_two_merges_into_one_directory_one_wins_and_one_is_told(
    server: ForkServer, models: Path, tmp_path: Path, expected: object
) -> None:
    first = stopped(OUT.start(server, models, tmp_path, signalled=IN_THE_MERGE))
    second = OUT.start(server, models, tmp_path)
    time.sleep(0.5)
    first.go_on()
    assert first.wait() == 0, first.said
    refused(second, str(tmp_path / "out"), "exists")
    assert f"waiting for process {first.pid}, which merges to the same place" in second.said
    assert sums(tmp_path / "out") == expected
    assert OUT.leftovers(tmp_path) == set()


@pytest.mark.slow
def test_of_two_different_merges_into_one_directory_one_wins_and_one_is_told(
    server: ForkServer, models: Path, tmp_path: Path
) -> None:
    first = stopped(OUT.start(server, models, tmp_path, signalled=IN_THE_MERGE))
    second = Case("linear").start(server, models, tmp_path)
    time.sleep(0.5)
    first.go_on()
    assert first.wait() == 0, first.said
    whole = sums(tmp_path / "out")
    refused(second, str(tmp_path / "out"), "exists")
    assert sums(tmp_path / "out") == whole
    assert OUT.leftovers(tmp_path) == set()


def test_of_two_merges_into_one_store_both_end_with_the_one_checkpoint(
    server: ForkServer, models: Path, tmp_path: Path, expected: dict[str, str]
) -> None:
    first = stopped(STORE.start(server, models, tmp_path, signalled=IN_THE_MERGE))
    second = STORE.start(server, models, tmp_path)
    time.sleep(0.5)
    first.go_on()
    assert [first.wait(), second.wait()] == [0, 0]
    (checkpoint,) = STORE.results(tmp_path)
    assert sums(checkpoint) == expected
    assert not any(line[:2] == ["progress", "merge"] for line in second.trace)
    assert STORE.leftovers(tmp_path) == set()


@pytest.mark.parametrize("case", [OUT, pytest.param(STORE, marks=_MORE)], ids=str)
def test_whoever_waits_takes_over_from_a_merge_that_is_killed(
    case: Case, server: ForkServer, models: Path, tmp_path: Path, expected: object
) -> None:
    first = stopped(case.start(server, models, tmp_path, signalled=IN_THE_MERGE))
    second = case.start(server, models, tmp_path)
    time.sleep(0.5)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    assert second.wait() == 0, second.said
    assert sums(case.results(tmp_path)[0]) == expected
    assert case.leftovers(tmp_path) == set()


@pytest.mark.slow
def test_a_checkpoint_removed_after_a_kill_is_merged_anew(
    server: ForkServer, models: Path, tmp_path: Path, expected: object
) -> None:
    """The last thing a merge does is to remove its working directory: a kill may come before."""
    killed = OUT.start(server, models, tmp_path, signalled=Signalled(signal.SIGKILL, line="rmtree"))
    assert killed.wait() == -signal.SIGKILL
    if (tmp_path / "out").exists():
        shutil.rmtree(tmp_path / "out")
    again = OUT.start(server, models, tmp_path)
    assert again.wait() == 0, again.said
    assert sums(tmp_path / "out") == expected
    assert OUT.leftovers(tmp_path) == set()
