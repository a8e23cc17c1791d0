"""Ray shells: one holds a language model, one scores, one fits pieces of a scoring, one computes ceilings.

They carry; the stations compute.

Features go to the store from where they were made, and only a word of completion travels back. A model's actor loads
its weights once, for all data sets, and is killed when its work is done.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ray

from harness.checkpoints.checkpoints import Checkpoint
from harness.cluster.placement import Placement
from harness.extraction.backends import Model
from harness.kernels.arrays import gpu_available
from harness.kernels.ridge import FoldFit
from harness.protocol import Protocol
from harness.records import Ceiling, Dataset, Floats
from harness.runs.ray_session import resources
from harness.scoring import fitting as fittings
from harness.scoring.fitting import Fitting, Matrices
from harness.storage.store import Store
from harness.units.ceiling_units import compute_ceiling
from harness.units.feature_units import FeatureUnit
from harness.units.score_units import ScoreUnit

# Weights smaller than this are read faster than a process starts.
PREFETCH_BYTES = 2**28


@ray.remote(max_restarts=0, max_task_retries=0)
class ModelActor:
    """Holds one checkpoint, or its untrained twin, and reads texts with it.

    It is not restarted by Ray, which would spend its retries on a node before it knows that the node is dead: who sent
    a text sends it again, to another actor (readings.py).
    """

    def __init__(
        self, checkpoint: Checkpoint, out: str, device: str, placement: Placement, allow_pickle: bool
    ) -> None:  # fmt: skip
        self.checkpoint, self.store, self.device, self.placement = checkpoint, Store(out), device, placement
        self.allow_pickle = allow_pickle
        self.loaded: tuple[int | None, Model] | None = None

    def where(self) -> tuple[str, tuple[int, ...]]:
        """Where it came to be: Ray's id of the node, and those of its GPUs there."""
        return ray.get_runtime_context().get_node_id(), tuple(int(gpu) for gpu in ray.get_gpu_ids())

    def read(self, unit: FeatureUnit) -> float:
        """Compute and store one feature unit; seconds it took, loading included.

        The model is loaded here and not on creation, so that what is wrong with a checkpoint comes back as itself.
        """
        from harness.extraction import backends

        started = time.monotonic()
        seed = unit.source.seed if unit.source.kind == "untrained" else None
        if self.loaded is None or self.loaded[0] != seed:
            if self.loaded:  # two models at once may not fit
                self.loaded[1].close()
                self.loaded = None
            fetch(self.checkpoint, self.allow_pickle)
            backend = self.placement.backend if seed is None else "transformers"  # which draws weights
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
    """Fetch the weights of a model that comes next, so that its actor finds them on this node; bytes read."""
    return fetch(checkpoint, allow_pickle)


def fetch(checkpoint: Checkpoint, allow_pickle: bool) -> int:
    """Bring a checkpoint's weights to this machine and into its page cache; bytes read.

    One model at a time on a node: two that share the link would both come late, and their GPUs wait for both. Nothing
    is read where it is small, or would not fit beside what is in use.
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
    """A lock that this user's processes on this machine share; none where the user has no writable folder."""
    from filelock import FileLock

    place = os.environ.get("XDG_RUNTIME_DIR") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(place) / "brain-alignment-harness"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return contextlib.nullcontext()
    return FileLock(folder / f"link-{platform.node()}.lock")


@ray.remote
def score(unit: ScoreUnit, dataset: Dataset, ceiling: Ceiling, out: str, device: str) -> float:
    """Compute and store one score unit; seconds it took."""
    started = time.monotonic()
    unit.run(dataset, ceiling, Store(out), partial(over_cluster, device=device))
    return time.monotonic() - started


def over_cluster(
    fitting: Fitting, layers: Matrices, Y: Floats, device: str, least_flops: float = 3e11
) -> Iterator[list[list[FoldFit]]]:
    """Fit the pieces of a scoring, (layer, block of neuroids), over all GPUs of the cluster, or over all its cores.

    Small work is done here. No more layers are on their way than keep the workers busy, so that a large model's
    features do not fill the object store.

    Args:
        fitting: how.
        layers: the features.
        Y: (row, neuroid) responses.
        device: "cuda" for GPUs, else cores.
        least_flops: what is less is small work.
    """
    if fittings.flops(fitting, layers, Y.shape[1]) < least_flops:
        yield from fittings.fit_locally(fitting, layers, Y)
        return
    n_cpus, n_gpus = resources()
    on_gpus = device == "cuda" and n_gpus  # nodes with GPUs may have gone when the last model had read
    n_workers = n_gpus if on_gpus else n_cpus
    need = {"num_gpus": 1, "num_cpus": 0} if on_gpus else {"num_cpus": 1}
    blocks = fittings.cut(Y.shape[1], len(layers), n_workers)
    shared = ray.put(fitting), [ray.put(Y[:, block]) for block in blocks]
    running: deque[list[Any]] = deque()
    for k in range(len(layers)):
        layer = ray.put(layers[k])
        running.append([_fit.options(**need).remote(shared[0], layer, part) for part in shared[1]])
        if len(running) * len(blocks) >= 2 * n_workers:
            yield _got(running.popleft())
    yield from map(_got, running)


def _got(pieces: list[Any]) -> list[list[FoldFit]]:
    """What pieces gave; what was wrong with one comes back as itself."""
    try:
        found: list[list[FoldFit]] = ray.get(pieces)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    return found


@ray.remote(max_retries=3)
def _fit(fitting: Fitting, layer: Floats, Y: Floats) -> list[FoldFit]:
    """One piece, on the GPU that Ray gave where CuPy finds it."""
    return fitting.fit(layer, Y, on_gpu=bool(ray.get_gpu_ids()) and gpu_available())


@ray.remote
def ceiling(dataset: Dataset, protocol: Protocol, out: str) -> Ceiling:
    """The ceilings of a data set under a protocol, from the store where they were computed before."""
    return compute_ceiling(dataset, protocol, Store(out))


def prepare_quickstart(folder: str, seed: int) -> None:
    """Build the tiny models and the recording in which one of them is planted, in a process of its own."""
    ray.get(_prepare_quickstart.remote(folder, seed))


@ray.remote
def _prepare_quickstart(folder: str, seed: int) -> None:
    from harness.units import quickstart

    quickstart.build(folder, seed)
