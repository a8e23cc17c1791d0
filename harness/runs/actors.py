"""Ray actors and tasks: extraction, scoring, pieces of scores (layers, blocks of neuroids, folds), noise ceilings.

They only distribute work; the computation is in the modules they call.

Each worker writes its features to the store and sends back only the time taken. A model actor loads its weights once
for all data sets and is killed when its work is done.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import cloudpickle
from ray.experimental import internal_kv

from harness.checkpoints import model_configs
from harness.checkpoints.checkpoints import Checkpoint
from harness.cluster.placement import Placement
from harness.extraction.backends import Model
from harness.kernels.arrays import gpu_available
from harness.kernels.ridge import FoldFit
from harness.protocol import Protocol
from harness.records import Ceiling, Dataset, Floats
from harness.runs.ray_session import resources
from harness.scoring import fitting as fittings
from harness.scoring.fitting import BlockTask, Fitting, Matrices, Spread
from harness.storage.store import Store
from harness.units.ceiling_units import compute_ceiling
from harness.units.feature_units import FeatureUnit
from harness.units.localiser_units import LocaliserUnit
from harness.units.score_units import ScoreUnit
from harness.units.shard_units import ShardUnit

# What a model actor extracts in one go and stores under one key.
ExtractionUnit = FeatureUnit | LocaliserUnit | ShardUnit
# Prefetching smaller weights is not worth it: reading them takes less time than starting a process.
PREFETCH_BYTES = 2**28
# Part of the object store that arguments may take; the rest is for results.
_USABLE_STORE = 0.8


@ray.remote(max_restarts=0, max_task_retries=0)
class ModelActor:
    """Holds one checkpoint, or its untrained control, and extracts features or surprisals with it.

    Ray does not restart it: Ray would spend its retries on a node before noticing that the node is dead. The model
    queue (model_queue.py) resubmits lost units to a new actor instead.
    """

    def __init__(
        self, checkpoint: Checkpoint, out: str, device: str, placement: Placement, allow_pickle: bool
    ) -> None:  # fmt: skip
        self.checkpoint, self.store, self.device, self.placement = checkpoint, Store(out), device, placement
        self.allow_pickle = allow_pickle
        self.loaded: tuple[int | None, Model] | None = None

    def where(self) -> tuple[str, tuple[int, ...]]:
        """Return Ray's id of this actor's node, and the indices of its GPUs on that node."""
        return ray.get_runtime_context().get_node_id(), tuple(int(gpu) for gpu in ray.get_gpu_ids())

    def become(self, checkpoint: Checkpoint, placement: Placement) -> None:
        """Hold another checkpoint, so that small models share a process and its imports."""
        before, self.loaded = self.loaded, None
        self.checkpoint, self.placement = checkpoint, placement  # whatever closing raises
        if before:
            before[1].close()

    def extract(self, unit: ExtractionUnit) -> float:
        """Compute and store one unit; return the seconds taken, including loading the model.

        The model is loaded here and not in `__init__`, so that a faulty checkpoint raises its own exception instead of
        an actor creation error.
        """
        from harness.extraction import backends

        started = time.monotonic()
        seed = unit.seed
        if self.loaded is None or self.loaded[0] != seed:
            if self.loaded:  # two models at once may not fit into memory
                self.loaded[1].close()
                self.loaded = None
            fetch(self.checkpoint, self.allow_pickle)
            model_configs.import_libraries()
            backend = self.placement.backend if seed is None else "transformers"  # draws random weights
            model = backends.load(
                backend, self.checkpoint, self.device, unit.dtype, seed,
                n_gpus=max(1, self.placement.n_gpus) if self.device == "cuda" else 1, allow_pickle=self.allow_pickle,
                gpu_share=self.placement.gpu_share,
            )  # fmt: skip
            self.loaded = (seed, model)
        unit.run(self.loaded[1], self.store)
        return time.monotonic() - started


@ray.remote(num_cpus=0, max_retries=0)
def prefetch(checkpoint: Checkpoint, allow_pickle: bool) -> int:
    """Fetch the weights of the next model to this node ahead of its actor; return the bytes read."""
    return fetch(checkpoint, allow_pickle)


def fetch(checkpoint: Checkpoint, allow_pickle: bool) -> int:
    """Read a checkpoint's weights into this machine's page cache, downloading them if needed; return the bytes read.

    A node fetches one model at a time: two models sharing the link would both arrive late, and both sets of GPUs would
    wait. Small weights, and weights that do not fit into free memory, are skipped.
    """
    from harness.checkpoints.checkpoints import with_weights
    from harness.loading import memory

    if checkpoint.n_parameters * 2 < PREFETCH_BYTES and not checkpoint.hub_id:
        return 0
    with _link_lock():
        checkpoint = with_weights(checkpoint, allow_pickle)
        folders = filter(None, (checkpoint.folder, checkpoint.base_folder))
        files = [path for folder in folders for path in sorted(Path(folder).glob("*.safetensors")) if path.is_file()]
        n_bytes = sum(path.stat().st_size for path in files)
        if n_bytes > 0.8 * memory.free_bytes("cpu"):
            return 0
        for path in files:
            with path.open("rb", buffering=0) as stream:
                while stream.read(2**26):
                    pass
    return n_bytes


def _link_lock() -> contextlib.AbstractContextManager[Any]:
    """Return a lock shared by this user's processes on this machine, or no lock if the user has no writable folder."""
    from filelock import FileLock

    base_folder = os.environ.get("XDG_RUNTIME_DIR") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base_folder) / "brain-alignment-harness"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return contextlib.nullcontext()
    return FileLock(folder / f"link-{platform.node()}.lock")


@ray.remote
def score(
    unit: ScoreUnit, dataset: Dataset, ceiling: Ceiling, out: str, device: str, scored: ScoreUnit | None
) -> float:  # fmt: skip
    """Compute and store one score unit, or take its rows from one of the same content; return the seconds taken."""
    started, store = time.monotonic(), Store(out)
    if scored is None or not unit.take_from(scored, store):
        spread = Spread(partial(over_cluster, device=device), partial(by_fold, device=device), over_cores)
        unit.run(dataset, ceiling, store, spread)
    return time.monotonic() - started


def over_cluster(
    fitting: Fitting, layers: Matrices, Y: Floats, device: str, least_flops: float = fittings.LEAST_DIVIDED
) -> Iterator[list[list[FoldFit]]]:
    """Fit all (layer, block of neuroids) tasks on all GPUs of the cluster, or on all its cores.

    Small problems, and those that the object store cannot hold, are fitted in this process. Only as many layers as keep
    the workers busy, and fit into the store, are in flight at a time.

    Args:
        fitting: the regression, folds and scaling to use.
        layers: one (row, feature) matrix per layer.
        Y: (row, neuroid) responses.
        device: "cuda" to fit on GPUs, anything else to fit on cores.
        least_flops: problems below this number of operations are fitted in this process.

    Yields:
        Per layer, in order: for each block of neuroids, one `FoldFit` per fold.
    """
    layer_bytes = 8 * len(Y) * max((layers.width(k) for k in range(len(layers))), default=1)
    is_small = fittings.flops(fitting, layers, Y.shape[1]) < least_flops
    room = 0.0 if is_small else _room_in_store() - 2 * Y.nbytes  # the recording itself, and blocks of its responses
    if room < layer_bytes:
        yield from fittings.run_locally(fitting, layers, Y)
        return
    n_workers, of_task = _workers(device)
    blocks = fittings.cut(Y.shape[1], len(layers), n_workers)
    n_ahead = min(-(-2 * n_workers // len(blocks)), int(room // layer_bytes))
    fitting_ref, block_refs = ray.put(fitting), [ray.put(Y[:, block]) for block in blocks]
    running: deque[list[Any]] = deque()
    fit = _fit.options(**of_task)
    for k in range(len(layers)):
        layer_ref = ray.put(layers[k])
        running.append([fit.remote(fitting_ref, layer_ref, block_ref) for block_ref in block_refs])
        if len(running) >= n_ahead:
            yield _results(running.popleft())
    yield from map(_results, running)


def by_fold(
    task: BlockTask, Y: Floats, operations: float, device: str, least_flops: float = fittings.LEAST_DIVIDED
) -> Floats:  # fmt: skip
    """Run a task on all GPUs of the cluster or on all its cores, divided by folds, and by neuroids if workers are left.

    On cores only as many pieces run at a time as have memory. Arguments are as in `over_cluster`.

    Returns:
        The joined results; the last axes are those of the folds and of the neuroids.
    """
    if operations < least_flops or _room_in_store() < 2 * Y.nbytes + _n_bytes(task):
        return task(Y)
    n_workers, of_task = _workers(device)
    if "num_gpus" not in of_task:
        of_task["memory"] = int(task.n_bytes(Y.shape[1]))
        n_workers = _n_at_a_time(of_task)
    if not n_workers:
        return task(Y)
    parts, blocks = fittings.cut_folds(task.n_folds, Y.shape[1], n_workers)
    if len(parts) == len(blocks) == 1 and "num_gpus" not in of_task:
        return task(Y)
    task_ref, run = ray.put(task), _block.options(**of_task)
    results = _results([run.remote(task_ref, part, Y[:, block]) for part in parts for block in blocks])
    return np.block([results[k : k + len(blocks)] for k in range(0, len(results), len(blocks))])


def _room_in_store() -> float:
    """Bytes that the object store of every node can hold of a recording and the arguments of pieces.

    Pieces whose arguments do not fit would wait for ever: the recording, an argument of the task that waits for them,
    stays there.
    """
    stores = [node["Resources"].get("object_store_memory") for node in ray.nodes() if node["Resources"].get("CPU")]
    return float(_USABLE_STORE * min(filter(None, stores), default=0.0))


def _n_bytes(argument: Any) -> int:
    """Size in the object store."""
    buffers: list[pickle.PickleBuffer] = []
    rest = cloudpickle.dumps(argument, protocol=5, buffer_callback=buffers.append)
    return len(rest) + sum(buffer.raw().nbytes for buffer in buffers)


def _workers(device: str) -> tuple[int, dict[str, Any]]:
    """Number of pieces that can run at a time, and the resources of one."""
    n_cpus, n_gpus = resources()
    on_gpus = device == "cuda" and n_gpus  # GPU nodes may have left the cluster after the last extraction
    return (n_gpus, {"num_gpus": 1, "num_cpus": 0}) if on_gpus else (n_cpus, {"num_cpus": 1})


def _n_at_a_time(of_task: dict[str, Any]) -> int:
    """Number of pieces on cores for which the nodes have cores and memory."""
    resources_of_nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(
        int(min(own.get("CPU", 0) // of_task["num_cpus"], own.get("memory", 0) // max(of_task["memory"], 1)))
        for own in resources_of_nodes
    )


def _results(tasks: list[Any]) -> list[Any]:
    """Return the results of fit tasks; re-raise the original exception of a failed one."""
    try:
        results: list[Any] = ray.get(tasks)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    return results


@ray.remote(max_retries=3)
def _fit(fitting: Fitting, layer: Floats, Y: Floats) -> list[FoldFit]:
    """Fit one layer to one block of neuroids, on the GPU assigned by Ray if CuPy can use it."""
    return fitting.fit(layer, Y, on_gpu=bool(ray.get_gpu_ids()) and gpu_available())


@ray.remote(max_retries=3)
def _block(task: BlockTask, folds: slice, Y: Floats) -> Floats:
    """Run a task for some folds and neuroids, on the GPU assigned by Ray if CuPy can use it."""
    return task.of_folds(folds)(Y, on_gpu=bool(ray.get_gpu_ids()) and gpu_available())


@ray.remote
def ceiling(dataset: Dataset, protocol: Protocol, out: str, progress_key: str) -> Ceiling:
    """Return the ceilings of a data set under a protocol; ceilings computed before come from the store."""
    return compute_ceiling(dataset, protocol, Store(out), partial(_report, progress_key), over_cores)


def over_cores(
    call: Callable[[int], Any], n: int, operations: float, least_flops: float = fittings.LEAST_DIVIDED
) -> Iterator[Any]:
    """Yield `call(k)` for k < n in order, computed on all cores of the cluster; few operations in this process."""
    if operations < least_flops or n < 2 or _room_in_store() < 2 * _n_bytes(call):
        yield from fittings.in_order(call, n, operations)
        return
    call_ref, ahead = ray.put(call), 2 * resources()[0]
    running: deque[Any] = deque(_call.remote(call_ref, k) for k in range(min(ahead, n)))
    for k in range(ahead, n + ahead):
        yield _results([running.popleft()])[0]
        if k < n:
            running.append(_call.remote(call_ref, k))


@ray.remote(max_retries=3)
def _call(call: Callable[[int], Any], k: int) -> Any:
    """One of the calls."""
    return call(k)


def _report(key: str, n_done: int, n_pools: int) -> None:
    """Keep the progress of a ceiling where the driver finds it."""
    with contextlib.suppress(Exception):  # progress is not worth a failure
        internal_kv._internal_kv_put(key, f"{n_done}/{n_pools}", overwrite=True)


def progress_of(key: str) -> tuple[int, int] | None:
    """Pools that are done, and all pools, of a ceiling with this key; None if it has not begun."""
    with contextlib.suppress(Exception):
        if content := internal_kv._internal_kv_get(key):
            n_done, n_pools = map(int, content.decode().split("/"))
            return n_done, n_pools
    return None
