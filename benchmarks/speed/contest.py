"""The merges that are compared, and what each contender's process costs."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
MERGEKIT = HERE.parent / ".venv-mergekit" / "bin" / "mergekit-yaml"
METHODS: dict[str, dict[str, object]] = {
    "linear": {"weight": 1.0},
    "task_arithmetic": {"weight": 0.4},
    "dare_linear": {"weight": 0.4, "density": 0.3},
    "slerp": {"t": 0.5},
    "ties": {"weight": 0.5, "density": 0.2},
    "breadcrumbs": {"weight": 0.5, "density": 0.3},
    "sce": {"select_topk": 0.3},
    "della": {"weight": 0.5, "density": 0.5},
}
TO_DISK = " to disk"
_POPULATED = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
CONTENDERS = (
    *("floor", "engine", "floor" + TO_DISK, "engine" + TO_DISK),
    *("first", "mergeflow", "mergekit"),
)
"""`first` is mergeflow with inputs that it has never hashed."""


@dataclass(frozen=True)
class Cost:
    """What one process took: wall and CPU seconds and peak resident set in MB, all of the process;
    and the seconds that it says of itself, if it does."""

    wall: float
    cpu: float
    peak: float
    own: float | None = None
    timed_out: bool = False


@dataclass(frozen=True)
class Contest:
    """The checkpoints that are merged and a directory to work in."""

    checkpoints: list[Path]
    work: Path
    limit: float
    """Seconds after which a contender is stopped."""

    def run(self, contender: str, method: str) -> Cost:
        """One contender's cost of one method.

        Raises:
            SystemExit: it failed.
        """
        out, home = self.work / "out", self.work / "home"
        if contender == "first":
            shutil.rmtree(home, ignore_errors=True)
        home.mkdir(exist_ok=True)
        _back_free_memory(sum(path.stat().st_size for path in self.checkpoints[0].iterdir()))
        if self.fits_memory:
            _warm(self.checkpoints)
        cost = _run(self._command(contender, method, out), home, self.limit)
        for leftover in (out, self.work / ".out.mergeflow"):
            shutil.rmtree(leftover, ignore_errors=True)
        # What is still on its way to the disk must not slow the next one down.
        os.sync()
        return cost

    @property
    def fits_memory(self) -> bool:
        """Whether the page cache can hold all inputs and a result."""
        weights = [file for path in self.checkpoints for file in path.glob("*.safetensors")]
        inputs = sum(file.stat().st_size for file in weights)
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return inputs * (1 + 1 / len(self.checkpoints)) < memory

    def _recipe(self, method: str) -> Path:
        """A recipe that both tools read, over as many models as the method takes."""
        content: dict[str, object] = {
            "merge_method": method,
            "models": [{"model": str(path)} for path in self._inputs(method, with_base=False)],
            "parameters": METHODS[method],
            "dtype": "bfloat16",
        }
        if method != "linear":
            content["base_model"] = str(self.checkpoints[0])
        path = self.work / f"{method}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def _inputs(self, method: str, *, with_base: bool) -> list[Path]:
        base, *models = self.checkpoints
        chosen = models[:1] if method == "slerp" else models
        if method == "linear":
            return chosen if len(chosen) > 1 else [base, *chosen]
        return [base, *chosen] if with_base else chosen

    def _command(self, contender: str, method: str, out: Path) -> list[str]:
        recipe = str(self._recipe(method))
        to_disk = ["--to-disk"] if contender.endswith(TO_DISK) else []
        if contender.startswith("floor"):
            inputs = map(str, self._inputs(method, with_base=True))
            return [sys.executable, str(HERE / "floor.py"), str(out), *inputs, *to_disk]
        if contender.startswith("engine"):
            return [sys.executable, str(HERE / "engine.py"), recipe, str(out), *to_disk]
        if contender == "mergekit":
            return [str(MERGEKIT), recipe, str(out), "--allow-crimes", "--quiet"]
        return [sys.executable, "-m", "flows.cli", "merge", recipe, str(out)]


def _back_free_memory(nbytes: int) -> None:
    """Have a virtual machine's host provide memory for a result before it is written.

    What the last contender freed may have gone back to the host, and to get it again can take
    several times as long as writing to it: whoever came first would pay for all. In a process of
    its own: a child's peak memory counts what its parent ever had.
    """
    code = f"import mmap; mmap.mmap(-1, {nbytes}, flags={_POPULATED}).close()"
    subprocess.run([sys.executable, "-c", code], check=True)


def _warm(checkpoints: list[Path]) -> None:
    """Read all weights once: what was read a while ago may have left the page cache."""
    for path in checkpoints:
        for shard in path.glob("*.safetensors"):
            with shard.open("rb") as file:
                while file.read(1 << 24):
                    pass


def _run(command: list[str], home: Path, limit: float) -> Cost:
    environment = os.environ | {"MERGEFLOW_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    # An installation has its bytecode: else a checkout would compile its sources at every start.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    started = time.monotonic()
    child = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    timed_out = False
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            break
        if not timed_out and time.monotonic() - started > limit:
            child.kill()
            timed_out = True
        time.sleep(0.005)
    wall = time.monotonic() - started
    assert child.stdout is not None
    said = child.stdout.read()
    if status and not timed_out:
        raise SystemExit(f"failed with status {status}: {' '.join(command)}")
    own = float(said) if command[1].endswith(".py") else None
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(wall, cpu, usage.ru_maxrss / 1024, own, timed_out)
