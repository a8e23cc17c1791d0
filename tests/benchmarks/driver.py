"""Units a second of the driver: 10,000 units of no work, claimed, scheduled on Ray, stored and recorded.

`python tests/benchmarks/driver.py [--units 10000] [--json]`. What it does for a unit is what it does for any score: a
claim, a Ray task, a unit of the store with its manifest (three fsyncs), the claim given back, a line for whoever looks.
The memory of the driver is read after each tenth of them: what grows with every unit would show.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import ray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.protocol import FoldRule, Protocol, Regression
from harness.runs import actors, ray_session
from harness.runs.schedule import Schedule
from harness.runs.workload import ProgressListener, Workload
from harness.spec import EvaluationSpec
from harness.storage.store import Store
from harness.units.feature_units import FeatureSource
from harness.units.score_units import ScoreUnit

PROTOCOL = Protocol("strict", "none", FoldRule("grouped", n=5), Regression("ols"), "max")


@ray.remote
def no_work(unit: ScoreUnit, dataset: object, ceiling: object, out: str, device: str, scored: object) -> float:
    """Stores an empty unit."""
    Store(out).put("scores", unit.key, lambda folder: None, {})
    return 0.0


@ray.remote
def no_ceiling(*_: object) -> None:
    """Computes none."""


class Recorder(ProgressListener):
    """Notes the driver's memory, in MB, after every so many units."""

    def __init__(self, every: int) -> None:
        self.every, self.n, self.began, self.rows = every, 0, time.perf_counter(), []

    def finished(self, unit: object, seconds: float) -> None:
        """One more."""
        self.n += 1
        if self.n % self.every == 0:
            rate = self.every / (time.perf_counter() - self.began)
            self.began = time.perf_counter()
            self.rows.append((self.n, rate, psutil.Process().memory_info().rss / 1e6))


def main() -> None:
    """Print a row for each tenth."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    ray_session.start(None)
    actors.score, actors.ceiling = no_work, no_ceiling
    with tempfile.TemporaryDirectory() as out:
        plan = Workload(EvaluationSpec("no-work", (), ()))
        plan.recordings["nothing"] = np.zeros(1)
        source = FeatureSource("nobody", "control", "", 0)
        plan.scores = [ScoreUnit(replace(source, seed=k), "nothing", "1", PROTOCOL, k) for k in range(arguments.units)]
        store, recorder = Store(out), Recorder(max(1, arguments.units // 10))
        began = time.perf_counter()
        account = Schedule(plan, plan.scores, store, "cpu", recorder).work()
        seconds = time.perf_counter() - began
        there = sum(store.manifest("scores", unit.key) is not None for unit in plan.scores)
    assert account.n_scored == there == arguments.units
    if arguments.json:
        rows = [{"units": n, "units_per_s": rate, "driver_mb": mb} for n, rate, mb in recorder.rows]
        print(json.dumps({"units": there, "seconds": seconds, "units_per_s": there / seconds, "rows": rows}, indent=1))
        return
    print(f"{'units':>8} {'units/s':>8} {'driver MB':>10}")
    for n, rate, mb in recorder.rows:
        print(f"{n:>8} {rate:>8.0f} {mb:>10.1f}")
    print(f"{there} units scheduled and recorded in {seconds:.1f} s: {there / seconds:.0f} a second")


if __name__ == "__main__":
    main()
