"""The spec `scale` on a made-up cluster: 100 models of 60 million to 70 billion parameters, 4 nodes of 8 GPUs.

`python tests/benchmarks/fleet.py [--models 100] [--runs 2] [--kills 10] [--json]`. Placement, claims, recovery, scoring
and tables are the real ones. A model is a stand-in: it has the size that the table of models gives it, needs the
seconds that the plan predicts, divided by --speed, and gives vectors drawn from its weights' hash. Nodes are killed at
random moments and replaced a few seconds later; the tables must be those of a run that nothing happened to.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import ray
from chaos import n_differing
from ray._private import utils as ray_utils
from ray.cluster_utils import Cluster

from harness.cluster import forecast
from harness.cluster.placement import Placement
from harness.models import model_table as models
from harness.models import tiny
from harness.runs import actors, pipeline, reservations
from harness.runs import model_queue as readings_of
from harness.spec import SPECS, EvaluationSpec
from harness.storage import tables
from harness.storage.origin import FEATURES_VERSION
from harness.storage.store import Store
from harness.units.feature_units import FeatureUnit

SPEED = 6.0  # seconds of the plan in one second here
N_SENTENCES, WIDTH, LAYERS = 40, 8, ("decoder.0", "decoder.1")


@ray.remote(max_restarts=0)
class StandIn:
    """A model that takes its planned time to load and to read, and gives vectors drawn from what defines the unit."""

    def __init__(self, checkpoint: Any, out: str, device: str, placement: Placement, allow_pickle: bool) -> None:
        self.out, self.placement, self.is_loaded = out, placement, False

    def where(self) -> tuple[str, tuple[int, ...]]:
        """As of a model's actor."""
        return ray.get_runtime_context().get_node_id(), tuple(int(gpu) for gpu in ray.get_gpu_ids())

    def become(self, checkpoint: Any, placement: Placement) -> None:
        """As of a model's actor."""
        self.placement, self.is_loaded = placement, False

    def extract(self, unit: FeatureUnit) -> float:
        """Store features after the time that the plan says."""
        from safetensors.numpy import save_file

        began, one = time.time(), self.placement
        if not self.is_loaded:
            with FileLock(Path(self.out) / f"link-{self.where()[0]}"):  # one model at a time comes over a node's link
                time.sleep(one.load_s / SPEED)
        self.is_loaded = True
        time.sleep(one.run_s / SPEED)
        numbers = np.random.default_rng(int(unit.key[:8], 16))
        n = len(unit.stimuli.ids)
        arrays = {layer: numbers.standard_normal((n, WIDTH)).astype(np.float32) for layer in LAYERS}
        if unit.surprisals:
            words = ("bits", "n_tokens", "space_bits", "entropy_bits", "ranks", "n_first")
            arrays |= {name: numbers.random(n).astype(np.float32) + 1 for name in words}
        node, gpus = self.where()
        facts = {
            "schema": FEATURES_VERSION, "model": unit.source.name, "began": began, "ended": time.time(),
            "dtype": unit.dtype, "node": node, "gpus": gpus, "share": one.gpu_share,
        }  # fmt: skip
        ids = {"row_ids": json.dumps(list(unit.stimuli.ids))}
        Store(self.out).put("features", unit.key, lambda to: save_file(arrays, to / "features.safetensors", ids), facts)
        return time.time() - began


def fleet(folder: Path, n: int) -> EvaluationSpec:
    """Folders of stand-ins under the names of `scale`, and a recording of 40 sentences."""
    names = SPECS["scale"]().models[:n]
    like = tiny.build("llama", folder / "like", ["a word and another word"], 0)
    lines = []
    for name in names:
        to = folder / "models" / name
        to.mkdir(parents=True)
        for file in like.iterdir():
            (to / file.name).symlink_to(file)
        (to / "stands_for.json").write_text(json.dumps({"model": name}))  # so that its revision is its own
        lines += [f'["{name}"]', f'folder = "models/{name}"']
    (folder / "models.toml").write_text("\n".join(lines))
    models.extend(str(folder / "models.toml"))
    recording = sentences(folder)
    return EvaluationSpec(
        "scale", names, (f"local:{recording}",), ("strict",), controls=("length", "random"), variants=(),
        dtype="bfloat16",
    )  # fmt: skip


def sentences(folder: Path) -> Path:
    """A recording of 40 sentences and 4 neuroids, of noise, as a folder of tables."""
    recording = folder / "sentences"
    recording.mkdir()
    numbers = np.random.default_rng(0)
    rows = [f"s{k},sentence number {k},topic{k // 5}" for k in range(N_SENTENCES)]
    (recording / "stimuli.csv").write_text("\n".join(["stimulus_id,text,passage", *rows]))
    values = numbers.standard_normal((N_SENTENCES, 4))
    cells = [",".join([f"s{k}", *(f"{value:.6f}" for value in row)]) for k, row in enumerate(values)]
    (recording / "responses.csv").write_text("\n".join(["row_id,n0,n1,n2,n3", *cells]))
    return recording


def nominal(names: tuple[str, ...]) -> dict[str, Any]:
    """What the models ask for that the stand-ins stand for."""
    return {demand.model: demand for demand in forecast.demands_of(names)}


def machines(n_nodes: int, gpus: int) -> tuple[Cluster, dict[str, Any]]:
    """A head without cores, and nodes with GPUs that are made up."""
    node = {"num_cpus": 2, "num_gpus": gpus, "labels": {"gpu-memory-gb": "80"}, "object_store_memory": 2**27}
    # Forty processes on few cores answer late: a node that lives must not be taken for dead.
    patient = {
        "health_check_period_ms": 1000, "health_check_failure_threshold": 15, "health_check_timeout_ms": 20_000,
    }  # fmt: skip
    head = {"num_cpus": 0, "object_store_memory": 2**27, "_system_config": patient}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.workers = [made.add_node(**node) for _ in range(n_nodes)]
    ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
    return made, node


class Killer(threading.Thread):
    """Kills nodes at random moments, once models are read, and puts another in the place of each."""

    def __init__(self, made: Cluster, node: dict[str, Any], n: int, within_s: float, seed: int, out: str) -> None:
        super().__init__(daemon=True)
        self.made, self.node, self.out, self.n_killed = made, node, out, 0
        self.numbers = random.Random(seed)  # noqa: S311
        self.moments = sorted(self.numbers.uniform(0, within_s) for _ in range(n))
        self.ended = threading.Event()

    def run(self) -> None:
        """Until all moments have come, or the run is over."""
        while not self.ended.wait(0.1) and not list(Path(self.out).glob("units/features/*/manifest.json")):
            pass
        began = time.monotonic()
        for moment in self.moments:
            if self.ended.wait(max(0.0, began + moment - time.monotonic())):
                return
            node = self.numbers.choice(self.made.workers)
            self.made.workers.remove(node)
            self.made.remove_node(node, allow_graceful=False)
            self.n_killed += 1
            while not self.ended.is_set():
                try:
                    self.made.workers.append(self.made.add_node(**self.node))
                    break
                except Exception as error:  # noqa: BLE001 - a process that came up too slowly
                    print(f"a node did not come up ({error}); another is started", file=sys.stderr)
        self.ended.wait()  # Linux ends the nodes with the thread that started them


def once(spec: EvaluationSpec, out: str, kills: int, seed: int, within_s: float) -> dict[str, Any]:
    """One run on a cluster of its own."""
    made, node = machines(4, 8)
    cluster = reservations.cluster("cuda")
    planned = forecast.make_forecast(WANTED.values(), cluster, "bfloat16")
    killer = Killer(made, node, kills, within_s, seed, out)
    killer.start()
    began = time.monotonic()
    try:
        outcome = pipeline.run(spec, out, pipeline.RunOptions(device="cuda"))
        seconds = time.monotonic() - began
        for failure in outcome.failures:
            print(failure, file=sys.stderr)
    finally:
        killer.ended.set()
        killer.join()
        ray.shutdown()
        made.shutdown()
    return {"seconds": seconds, "failures": len(outcome.failures), "run": outcome.run, "killed": killer.n_killed,
            **measured(out, outcome.run, planned)}  # fmt: skip


def measured(out: str, run: str, planned: Any) -> dict[str, Any]:
    """Of the readings that counted: where they were, how long all took, how much of the GPUs they held.

    placed_as_planned: on the node that the plan says; on_same_gpus: of the same numbers too, which Ray gives in a node.
    gpu_share: of all GPUs over the whole time, loading included; planned_gpu_share: by the plan.
    """
    (about,) = tables.read(out, "runs", run).to_dict("records")
    store, read = Store(out), tables.read(out, "extractions", run)
    spans = [store.manifest("features", key) for key in read["key"]]
    span = max(one["ended"] for one in spans) - min(one["began"] for one in spans)
    held = sum((one["ended"] - one["began"]) * len(one["gpus"]) * one["share"] for one in spans)
    where = {one.model: one for one in planned.placed}
    meant = sum((one.end_s - one.start_s) * one.n_gpus * one.gpu_share for one in planned.placed)
    known = read[~read["reused"]]  # of one that was stored as its actor was lost, the place is not known
    at = [row for row in known.itertuples() if row.node == where[row.model].node]
    same = [row for row in at if tuple(map(int, row.gpus.split(","))) == where[row.model].gpus]
    return {
        "placed_as_planned": len(at), "on_same_gpus": len(same), "models": len(known),
        "makespan_s": about["extraction_s"],
        "planned_s": planned.makespan_s / SPEED, "bound_s": planned.lower_bound_s / SPEED,
        "gpu_share": held / 32 / span, "planned_gpu_share": meant / 32 / planned.makespan_s,
        "units_repeated": int(about["n_recoveries"]),
    }  # fmt: skip


def lost(out: str, other: str, run: str) -> int:
    """Rows of the tables of scores of one run that another has not, or has otherwise."""
    return n_differing(("neuroid_scores", "layer_scores", "model_scores", "folds"), out, other, run)


WANTED: dict[str, Any] = {}


def main() -> int:
    """Print a row for each run; 1 where one lost something."""
    global SPEED
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--runs", type=int, default=2, help="with nodes that are killed; one without comes first")
    parser.add_argument("--kills", type=int, default=10, help="in each of them")
    parser.add_argument("--speed", type=float, default=SPEED, help="seconds of the plan in a second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.CRITICAL)
    SPEED = arguments.speed
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        rows = runs(Path(folder), arguments.models, arguments.runs, arguments.kills, arguments.seed)
    if arguments.json:
        print(json.dumps(rows, indent=1))
    return int(any(row["rows_lost"] or row["failures"] for row in rows))


def runs(folder: Path, n_models: int, n_runs: int, kills: int, seed: int) -> list[dict[str, Any]]:
    """The run that nothing happens to, and those in which nodes are killed."""
    os.environ |= {"HARNESS_MADE_UP_GPUS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    ray_utils.set_sigterm_handler = lambda handler: None  # nodes are added from a thread, which may set none
    WANTED.update(nominal(SPECS["scale"]().models[:n_models]))  # before the stand-ins take their names
    spec = fleet(folder, n_models)
    actors.ModelActor = StandIn
    readings_of.demand_of = lambda checkpoint, backend: WANTED[checkpoint.name]
    rows: list[dict[str, Any]] = []
    within_s = 0.0
    for k in range(n_runs + 1):
        out = str(folder / f"out-{k}")
        row = once(spec, out, kills if k else 0, seed + k, within_s)
        within_s = within_s or row["makespan_s"]
        row["rows_lost"] = lost(out, str(folder / "out-0"), row["run"])
        rows.append(row)
        said = " ".join(
            f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in row.items()
        )
        print(said, file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
