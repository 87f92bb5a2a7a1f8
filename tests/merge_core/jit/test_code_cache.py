"""Kernels as machine code: made once, loaded by later processes, and called with what they take."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core.errors import TypingError

from merge_core.jit import code_cache
from merge_core.jit.calling_convention import Array, chosen_by_type
from merge_core.jit.kernel import Kernel, compiled
from merge_core.kernels.cpu.weighted_sum import weighted_sum

ADD = """
import sys
import numpy as np
from merge_core.kernels.cpu.weighted_sum import weighted_sum
ones, out = np.ones(100, np.float32), np.empty(100, np.float32)
weighted_sum((ones, ones), (1.0, 2.0), None, out)
assert (out == 3.0).all()
print("numba" in sys.modules)
"""


def in_new_process(caches: Path) -> str:
    """Whether a process that calls a kernel imports numba: "True" or "False"."""
    done = subprocess.run(
        [sys.executable, "-c", ADD],
        env=os.environ | {"XDG_CACHE_HOME": str(caches), "NUMBA_CACHE_DIR": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_one_process_compiled_the_next_one_loads_without_numba(tmp_path: Path) -> None:
    assert in_new_process(tmp_path) == "True"
    assert in_new_process(tmp_path) == "False"


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        b"",
        pytest.param(b"{}\n", marks=pytest.mark.slow),
        pytest.param(b"not JSON\ncode", marks=pytest.mark.slow),
        pytest.param(3, marks=pytest.mark.slow),
        pytest.param(70, marks=pytest.mark.slow),
        pytest.param(-1, marks=pytest.mark.slow),
    ],
)
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: bytes | int) -> None:
    in_new_process(tmp_path)
    (kept,) = tmp_path.rglob("*.kernel")
    whole = kept.read_bytes()
    if isinstance(damage, int):  # one bit, of the digest, of the symbol, of the code
        flipped = bytearray(whole)
        flipped[damage] ^= 1
        damage = bytes(flipped)
    kept.write_bytes(damage)
    assert in_new_process(tmp_path) == "True"
    assert kept.read_bytes() == whole, "the same machine code"
    assert in_new_process(tmp_path) == "False"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs permissions as POSIX knows them")
@pytest.mark.parametrize(
    "place", ["mergeflow", pytest.param("mergeflow/kernels-*", marks=pytest.mark.slow)]
)
def test_nothing_is_loaded_from_where_others_may_write(tmp_path: Path, place: str) -> None:
    in_new_process(tmp_path)
    (directory,) = tmp_path.glob(place)
    directory.chmod(0o775)
    assert in_new_process(tmp_path) == "True"
    directory.chmod(0o755)
    assert in_new_process(tmp_path) == "False"


def test_what_was_not_used_for_long_is_removed(tmp_path: Path) -> None:
    in_new_process(tmp_path)
    (directory,) = tmp_path.glob("mergeflow/kernels-*")
    for name, days in (("kernels-old", 31), ("kernels-recent", 29), ("anything", 31)):
        place = directory.with_name(name)
        place.mkdir()
        (place / "code").touch()
        os.utime(place, (time.time() - days * 86400,) * 2)
    os.utime(directory, (0, 0))
    assert in_new_process(tmp_path) == "False", "what is used is kept"
    left = {place.name for place in directory.parent.iterdir()}
    assert left == {directory.name, "kernels-recent", "anything"}


def test_what_was_edited_meanwhile_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_cache, "_directory", lambda: tmp_path)
    code = code_cache.MachineCode("entry", "d", b"code")
    code_cache.write_kept("kernel", (), code)
    assert code_cache.read_kept("kernel", ()) == code
    monkeypatch.setattr(code_cache, "_sources_digest", lambda: "edited")
    code_cache.write_kept("other", (), code)
    assert code_cache.read_kept("other", ()) is None


def test_kernels_of_other_packages_are_not_kept() -> None:
    directory = code_cache._directory()
    _result(1)
    assert directory is None or not list(directory.glob("test_machine_code*"))


@pytest.mark.slow
def test_where_nothing_can_be_kept_every_process_compiles(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("no directory")
    assert in_new_process(place) == "True"
    assert in_new_process(place) == "True"


def test_another_processor_another_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    here = code_cache._directory.__wrapped__()
    monkeypatch.setattr(code_cache, "processor", lambda: "another +avx999")
    assert code_cache._directory.__wrapped__() != here


@compiled
def _described(
    values: Array, pair: tuple[Any, ...], flag: bool, nothing: Any, small: np.uint8
) -> float:
    total = 0.0
    for i in range(values.size):
        total += values[i]
    if nothing is not None:
        total += 1000.0
    return total + pair[0][0] + pair[1] + 10.0 * flag + 100.0 * small


def test_arguments_of_every_kind_arrive() -> None:
    values, other = np.arange(5, dtype=np.int16), np.array([0.5])
    pair = (other, -7)
    assert _described(values, pair, True, None, np.uint8(200)) == 10 + 0.5 - 7 + 10 + 20000
    assert _described(values[1:3], pair, False, 1, np.uint8(0)) == 3 + 0.5 - 7 + 1000
    assert _described(values[:0], (other, 2**40), False, None, np.uint8(0)) == 0.5 + 2**40


@compiled
def _result(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    "value", [True, False, -(2**60), 1.5, np.uint64(2**64 - 1), np.int8(-3), np.uint16(65535)]
)
def test_results_of_every_kind_come_back(value: Any) -> None:
    assert _result(value) == value


@compiled
def _total(values: Array) -> Any:
    total = 0.0
    for i in range(values.size):
        total += values[i]
    return total


@pytest.mark.parametrize(
    "values", [np.ones(6)[::2], np.ones((2, 2)), np.array(1.0), np.empty((0, 3)), "text", [1.0], 1j]
)
def test_what_a_kernel_cannot_take_is_refused(values: Any) -> None:
    with pytest.raises(TypeError, match="kernels take"):
        _total(values)
    assert _total(np.ones(6)[:4]) == 4.0


@compiled
def _allocating(count: int) -> float:
    return np.zeros(count).sum()


def test_a_kernel_that_allocates_is_refused_when_it_is_compiled() -> None:
    with pytest.raises(TypingError, match=r"function zeros"):
        _allocating(3)


def test_threads_may_call_a_kernel_for_the_first_time_at_once() -> None:
    kernel = Kernel(weighted_sum.function)
    outs = [np.zeros(1000, np.float32) for _ in range(8)]
    ones = np.ones(1000, np.float32)
    threads = [
        threading.Thread(target=kernel, args=((ones, ones), (1.0, 0.5), None, out)) for out in outs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((out == 1.5).all() for out in outs)


@compiled
def _compiled_before(value: float) -> float:
    return value


def test_code_that_is_chosen_by_type_may_be_imported_after_a_kernel_was_compiled() -> None:
    assert _compiled_before(2.0) == 2.0

    def doubled(value: float) -> float:
        raise NotImplementedError

    @chosen_by_type(doubled)
    def _doubled(value: Any) -> Any:
        def twice(value: Any) -> Any:
            return 2 * value

        return twice

    assert compiled(lambda value: doubled(value))(4.0) == 8.0
