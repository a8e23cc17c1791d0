"""How a call is measured: in a process of its own, with its own peak memory, while nobody else computes.

Started as a program it is that process: it loads the data, makes one small call so that libraries are imported and
thread pools stand, resets the peak, and then makes the call that counts.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# A sample is dropped where others used more than this share of the machine.
FOREIGN = 0.12
# Shorter calls are repeated until they last so long: the kernel counts CPU time in hundredths of a second.
AT_LEAST_S = 0.3
_LIMIT_S = 3600


@dataclass(frozen=True)
class Subject:
    """Somebody's way to do a task.

    Attributes:
        name: as in the table.
        call: module and function, "peers:himalaya".
        rule: how alpha is chosen within the training rows.
        precision: of the side of the neuroids.
        threads: of BLAS and torch.
        settings: the function's further arguments.
        needs: the package without which it cannot run; empty for ours.
    """

    name: str
    call: str
    rule: str
    precision: str
    threads: int
    settings: dict[str, Any] = field(default_factory=dict)
    needs: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether its package is there."""
        return not self.needs or importlib.util.find_spec(self.needs) is not None


def run(
    call: str, threads: int, settings: dict[str, Any], data: Path | None = None, folds: int = 5, out: Path | None = None
) -> dict[str, Any]:
    """Make one call in a fresh process.

    Args:
        call: "module:function"; with `data` it is given (layers, Y, folds, **settings), else the settings alone.
        threads: of every library.
        settings: keyword arguments.
        data: folder written by `workloads.make`.
        folds: how many of the five.
        out: where to keep the arrays it returns.

    Returns:
        seconds, peak_bytes (above what was there before the call), absolute_bytes, foreign (share of the machine that
        others used, None where it cannot be known), said (what the function returned under that name); or error.
    """
    job = {"call": call, "threads": threads, "settings": settings, "folds": folds}
    job |= {"data": data and str(data), "out": out and str(out)}
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads)), "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job))
        command = [sys.executable, "-W", "ignore", str(HERE / "measure.py"), str(path)]
        try:
            done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=_LIMIT_S)
        except subprocess.TimeoutExpired:
            return {"error": f"took more than {_LIMIT_S} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def machine() -> str:
    """Processor and core count."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def peaks(gemm: int, eigh: tuple[int, ...]) -> dict[str, Any]:
    """Rates of a square matrix product, GFLOP/s by type, and seconds of eigenvectors by size; best of five and two."""
    rng = np.random.default_rng(0)
    A, rates = rng.standard_normal((gemm, gemm)), {}
    for name in ("float32", "float64"):
        a = A.astype(name)
        rates[name] = 2e-9 * gemm**3 / min(timed(np.matmul, a, a)[0] for _ in range(5))
    grams = {n: (B := rng.standard_normal((n, n))) @ B.T for n in eigh}
    seconds = {n: min(timed(np.linalg.eigh, G)[0] for _ in range(2)) for n, G in grams.items()}
    return {"said": {"gflops": rates, "eigh_s": seconds}}


def timed(call: Any, *arguments: Any, **settings: Any) -> tuple[float, Any]:
    """Seconds of one call by the clock, and what it gave."""
    started = time.perf_counter()
    result = call(*arguments, **settings)
    return time.perf_counter() - started, result


def _main(path: str) -> None:
    """The process of one call."""
    job = json.loads(Path(path).read_text())
    module, name = job["call"].split(":")
    call, settings = getattr(importlib.import_module(module), name), job["settings"]
    arguments: tuple[Any, ...] = ()
    if job["data"]:
        workloads = importlib.import_module("workloads")
        layers, Y = workloads.load(Path(job["data"]))
        arguments = (layers, Y, workloads.split(len(Y), job["folds"]))
        call([X[:60, :96] for X in layers[:1]], Y[:60, :40], workloads.split(len(Y[:60])), **settings)
    with limited(job["threads"]):
        sample, result = measured(lambda: call(*arguments, **settings), again=bool(job["data"]))
    if job["out"]:
        np.savez(job["out"], **{key: value for key, value in result.items() if key != "said"})
    print(json.dumps({**sample, "said": result.get("said", {})}))


def limited(threads: int) -> Any:
    """A context in which every library that was imported keeps to so many threads."""
    from threadpoolctl import threadpool_limits

    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    return threadpool_limits(threads)


def measured(call: Any, again: bool = False) -> tuple[dict[str, Any], Any]:
    """Seconds of a call (mean of several where it is short and may be repeated), memory, and what others did."""
    before = _reset_peak()
    busy, own, started, calls = _busy_s(), _own_s(), time.perf_counter(), 0
    while not calls or (again and time.perf_counter() - started < AT_LEAST_S):
        result = None  # two results at once would count as memory
        result = call()
        calls += 1
    elapsed, peak, cpu, foreign = time.perf_counter() - started, _peak(), _own_s() - own, None
    if busy is not None:
        foreign = max(0.0, _busy_s() - busy - cpu) / (elapsed * (os.cpu_count() or 1))
    sample = {"seconds": elapsed / calls, "cpu_s": cpu / calls, "foreign": foreign}
    return {**sample, "peak_bytes": peak - before, "absolute_bytes": peak}, result


def _busy_s() -> float | None:
    """CPU seconds that the machine has spent on anybody's work; None where it does not say."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK") or None


def _own_s() -> float:
    """CPU seconds of this process and its children; its parent only waits."""
    return sum(os.times()[:4])


def _reset_peak() -> int:
    """Bytes in memory now, from which the peak is counted."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Most bytes in memory since the reset; since the start where there is no reset."""
    try:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


if __name__ == "__main__":
    sys.modules["measure"] = sys.modules["__main__"]
    _main(sys.argv[1])
