"""Surprisal of every word of large corpora under several models, written to the table `word_surprisals` with Ray Data.

For each model a pool of actors processes the shards of all corpora, as many in parallel as cores or GPUs and memory
allow, and stores each finished shard; a run that was killed resumes at the first missing shard. When a corpus is
complete, Ray Data streams its shards into the partition (run, corpus, model), which is renamed into place. At most one
shard per worker is in memory at any time, however long the corpus.

Ray Data's own checkpointing (2.60) is not used. It records which rows of one pipeline have been written, for one driver
that restarts the same pipeline. Here a shard is stored under a hash of what defines it: other runs reuse it, several
drivers share the work, it survives copying the store, and its checksum is verified before it goes into a table.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import ray

from harness.checkpoints import checkpoints
from harness.cluster.forecast import demand_of
from harness.cluster.machines import Cluster
from harness.cluster.placement import place
from harness.extraction import backends
from harness.loading import memory
from harness.protocol import Protocol, content_hash
from harness.runs import assemble, ray_session, reservations, stopping
from harness.runs.model_worker import MADE_UP_GPUS
from harness.runs.stopping import Stop
from harness.runs.workload import Failure, ProgressListener, guarded
from harness.storage import table_files, tables, transfer
from harness.storage.origin import SURPRISALS_VERSION
from harness.storage.store import Store
from harness.units import corpora, word_units
from harness.units.corpora import Corpus
from harness.units.word_units import WordOptions
from harness.units.word_workers import WordJob, WordWorker

logger = logging.getLogger(__name__)

# Memory of a worker besides the weights: Python with torch, and the texts and logits of a shard.
WORKER_BYTES = 1.2e9
# Limit on the part of Ray's object store used for blocks in transit.
STORE_BYTES = 256 * 2**20


@dataclass
class WordsOutcome:
    """Result of a run over corpora.

    Attributes:
        run: name of the run.
        table: folder or URL of the run's part of the table `word_surprisals`.
        n_words: words in the table, summed over models.
        n_read: words processed by this driver, summed over models.
        seconds: duration of the run.
        failures: what failed, with the reason.
        was_stopped: whether the run was stopped before it was done.
    """

    run: str
    table: str
    n_words: int = 0
    n_read: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    was_stopped: bool = False


@dataclass
class _Execution:
    """State shared by the steps of one run."""

    corpora: Sequence[Corpus]
    store: Store
    memory_gb: float | None
    listener: ProgressListener
    outcome: WordsOutcome
    stop: Stop


def run(
    sources: Sequence[str],
    names: Sequence[str],
    options: WordOptions,
    out: str,
    *,
    address: str | None = None,
    memory_gb: float | None = None,
    listener: ProgressListener | None = None,
    keep_going: bool = False,
) -> WordsOutcome:
    """Write the missing partitions of all models and corpora.

    Args:
        sources: files or data sets (`corpora.put`).
        names: models: names of the table, Hub ids or folders.
        options: how texts are read and models run.
        out: folder or URL of units and tables.
        address: address of a Ray cluster; None starts a local Ray.
        memory_gb: memory limit for all workers together; None uses all free memory.
        listener: receives the progress of the run.
        keep_going: whether unknown model names are recorded as failures while the other models run.

    Returns:
        The result; a failing model does not stop the others.

    Raises:
        ValueError: if a corpus cannot be read or a model name is unknown.
        FileNotFoundError: if a corpus does not exist.
    """
    out = transfer.absolute(out) if address else out
    started, store = time.monotonic(), Store(out)
    listener = guarded(listener)
    for name in () if keep_going else names:
        checkpoints.require_known(name)
    store.require_writable()
    store.sweep()
    with store.register_run():
        listener.busy("splitting the corpora into shards")
        all_corpora = _corpora(sources, options, store)
        _start_ray(address, store)
        outcome = _run_models(names, options, all_corpora, store, memory_gb, listener)
    for failure in outcome.failures:
        listener.failed(failure)
    outcome.seconds = time.monotonic() - started
    return outcome


def _run_models(
    names: Sequence[str],
    options: WordOptions,
    all_corpora: Sequence[Corpus],
    store: Store,
    memory_gb: float | None,
    listener: ProgressListener,
) -> WordsOutcome:
    """Resolve the models, compute their surprisals and write the tables."""
    failures: list[Failure] = []
    jobs = _jobs(names, options, store.out, failures)
    run_name = _name(jobs, all_corpora, options.protocol)
    table = f"{tables.folder(store.out, 'word_surprisals')}/run={run_name}"
    outcome = WordsOutcome(run_name, table, failures=failures)
    with stopping.signals(ctrl_c=False) as stop, store.lock_tables(run_name):
        _write(jobs, _Execution(all_corpora, store, memory_gb, listener, outcome, stop))
    return outcome


def _corpora(sources: Sequence[str], options: WordOptions, store: Store) -> list[Corpus]:
    """Split the sources into shards in the store; ValueError if two have the same name."""
    all_corpora = [
        corpora.put(source, options.protocol.context, store, options.data_root, options.text)
        for source in dict.fromkeys(sources)
    ]
    names = [corpus.name for corpus in all_corpora]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two corpora are called {min(repeated)!r}; rename a file.")
    return all_corpora


def _start_ray(address: str | None, store: Store) -> None:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # hides Ray's warnings about its own actor pools
    ray_session.start(address)
    if address:
        ray_session.require_shared(store)


def _name(jobs: Sequence[WordJob], all_corpora: Sequence[Corpus], how: Protocol) -> str:
    """Return the run's name, a hash of the protocol, corpora and models."""
    content = {
        "schema": SURPRISALS_VERSION, "how": asdict(how),
        "corpora": {corpus.name: corpus.version for corpus in all_corpora},
        "models": {job.name: [job.checkpoint.revision, job.dtype] for job in jobs},
    }  # fmt: skip
    return f"surprisal-{content_hash(content)[:10]}"


def _write(jobs: Sequence[WordJob], execution: _Execution) -> None:
    """Compute and assemble what is missing, model by model, and list the files of the tables."""
    store, listener, outcome = execution.store, execution.listener, execution.outcome
    root, name = assemble.root_of(store), outcome.run
    if fault := next(table_files.faults(store.fs, root, name), ""):
        logger.warning("run %s: %s; its tables are written again.", name, fault)
        tables.remove(store.out, name)
    units: list[dict[str, Any]] = []
    extractions: list[dict[str, Any]] = []
    for job in jobs:
        for note in job.checkpoint.notes:
            listener.remarked(job.name, note)
        try:
            n_read = outcome.n_read
            # Checksums are verified before shards go into a table, and not again once they are in it.
            every_byte = not all(_is_assembled(job, corpus, store, name) for corpus in execution.corpora)
            if failure := _compute(job, execution, every_byte=every_byte):
                outcome.failures.append(failure)
                continue
            if outcome.was_stopped:  # finished shards are stored
                break
            listener.busy(f"assembling the words of {job.name}")
            for corpus in execution.corpora:
                _assemble(job, corpus, store, outcome)
                units += _unit_rows(job, corpus, name)
                extractions.append(_extraction_row(job, corpus, store, reused=outcome.n_read == n_read))
        except Exception as error:  # noqa: BLE001 - the other models go on
            outcome.failures.append(Failure.of(error, "surprisal", job.name, protocol=job.how.name))
    table_files.forget(store.fs, root, name)
    assemble.write_rows(store, name, "units", units)
    assemble.write_rows(store, name, "extractions", [{**row, "run": name} for row in extractions])
    table_files.write(store.fs, root, name)


def _jobs(names: Sequence[str], options: WordOptions, out: str, failures: list[Failure]) -> list[WordJob]:
    """Resolve the models and place them on the cluster; those that fail are added to `failures`."""
    device = reservations.device_of(options.device)
    cluster = reservations.cluster(device)
    larger = reservations.largest_addable_node() if device == "cuda" else None
    jobs: dict[str, WordJob] = {}
    for name, known_as in checkpoints.names_of(dict.fromkeys(names)).items():
        try:
            checkpoint, dtype = word_units.resolve(name, options.dtype, known_as, allow_pickle=options.allow_pickle)
            library, _ = backends.choose(checkpoint, options.backend, device, dtype, states=False)
            demands, dtypes = [demand_of(checkpoint, library)], {checkpoint.name: dtype}
            (placement,) = place(demands, cluster, dtypes)
            if placement.refused and larger:  # the autoscaler adds a node once the workers request it
                (placement,) = place(demands, Cluster((larger,)), dtypes)
            if placement.refused:
                raise memory.InsufficientMemoryError(f"{checkpoint.name}: {placement.refused}")
            for protocol in word_units.protocols_of(checkpoint, options.protocol, options.t5_reads):
                job = WordJob(
                    checkpoint, dtype, protocol, library, "cpu" if MADE_UP_GPUS in os.environ else device, out,
                    options.allow_pickle, placement.n_gpus, placement.gpu_share,
                )  # fmt: skip
                if job.name in jobs and jobs[job.name].checkpoint.revision != checkpoint.revision:
                    raise ValueError(f"two models are called {job.name!r}; rename a folder.")
                jobs[job.name] = job
        except Exception as error:  # noqa: BLE001 - the other models go on
            failures.append(Failure.of(error, "models", model=known_as))
    return list(jobs.values())


def _compute(job: WordJob, execution: _Execution, *, every_byte: bool) -> Failure | None:
    """Compute the shards that the store does not hold; return the failure of the first shard that failed, if any."""
    store, listener, outcome, stop = execution.store, execution.listener, execution.outcome, execution.stop
    sizes = {
        shard: n_words for corpus in execution.corpora
        for shard, n_words in zip(corpus.shards, corpus.n_words, strict=True)
    }  # fmt: skip
    pending = [shard for shard in sizes if not store.has("surprisals", job.key(shard), every_byte=every_byte)]
    n_words, n_left = sum(sizes.values()), sum(sizes[shard] for shard in pending)
    listener.words(job.name, n_words - n_left, n_words)
    if not pending:
        return None
    outcome.was_stopped |= stop.is_asked
    if outcome.was_stopped:
        return None
    _configure_ray_data()
    size = _pool_size(job, len(pending), execution.memory_gb)
    worker_resources: dict[str, Any] = {"num_cpus": 1}
    if job.n_gpus:
        worker_resources = {"num_cpus": 0, "num_gpus": job.n_gpus if job.n_gpus > 1 else job.gpu_share}
    results = ray.data.from_items(
        [{"shard": shard} for shard in pending], override_num_blocks=len(pending)
    ).map_batches(WordWorker.of(job), batch_size=1, compute=ray.data.ActorPoolStrategy(size=size), **worker_resources)
    failure: Failure | None = None
    for row in results.iter_rows():
        if row["exception"]:
            failure = failure or Failure("surprisal", job.name, "", job.how.name, row["exception"], row["message"])
            continue
        outcome.n_read += sizes[row["shard"]]
        n_left -= sizes[row["shard"]]
        listener.words(job.name, n_words - n_left, n_words)
        if stop.is_asked and n_left:
            outcome.was_stopped = True
            break
    return failure


def _configure_ray_data() -> None:
    """Keep rows in order, limit the object store, and silence Ray Data's output."""
    context = ray.data.DataContext.get_current()
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised, and reported once
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(object_store_memory=STORE_BYTES)


def _pool_size(job: WordJob, n_shards: int, memory_gb: float | None) -> int:
    """Return the number of workers: limited by the shards, the cores or GPUs, and the memory."""
    n_cpus, n_gpus = ray_session.resources()
    larger = reservations.largest_addable_node()
    n_gpus = max(n_gpus, larger.n_gpus if larger else 0)
    if job.n_gpus:
        return max(1, min(n_shards, int(n_gpus / (job.n_gpus if job.n_gpus > 1 else job.gpu_share))))
    worker_bytes = WORKER_BYTES + job.checkpoint.n_parameters * (4 if job.dtype == "float32" else 2)
    free = memory_gb * 1e9 if memory_gb else memory.free_bytes("cpu")
    if free < worker_bytes:
        raise memory.InsufficientMemoryError(
            f"{job.name}: a worker needs about {worker_bytes / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are "
            "available; raise --memory-gb, or use bfloat16."
        )
    return max(1, min(n_shards, n_cpus, int(free / worker_bytes)))


def _assemble(job: WordJob, corpus: Corpus, store: Store, outcome: WordsOutcome) -> None:
    """Stream the surprisals of a corpus into its partition, unless that exists."""
    outcome.n_words += sum(corpus.n_words)
    if _is_assembled(job, corpus, store, outcome.run):
        return
    files = [f"{store.folder('surprisals', job.key(shard))}/words.parquet" for shard in corpus.shards]
    _configure_ray_data()
    assemble.write_partition(
        store, "word_surprisals", outcome.run, corpus.name, job.name, files, dataset_version=corpus.version
    )


def _is_assembled(job: WordJob, corpus: Corpus, store: Store, run_name: str) -> bool:
    folder = tables.folder(assemble.root_of(store), "word_surprisals")
    return transfer.exists(store.fs, f"{folder}/{assemble.partition(run_name, corpus.name, job.name)}")


def _unit_rows(job: WordJob, corpus: Corpus, run_id: str) -> list[dict[str, Any]]:
    """Return rows of `units`: the units that the partition is made of, for `harness cache`."""
    labels = {"run": run_id, "model": job.name, "dataset": corpus.name, "protocol": job.how.name}
    keys = [("corpora", corpus.key), *(("corpora", shard) for shard in corpus.shards)]
    keys += [("surprisals", job.key(shard)) for shard in corpus.shards]
    return [{**labels, "kind": kind, "key": key} for kind, key in keys]


def _extraction_row(job: WordJob, corpus: Corpus, store: Store, *, reused: bool) -> dict[str, Any]:
    """Return the row of `extractions` of a model and a corpus, aggregated over its shards."""
    manifests = [store.manifest("surprisals", job.key(shard)) or {} for shard in corpus.shards]

    def values(name: str) -> list[Any]:
        return [manifest[name] for manifest in manifests if manifest.get(name) is not None]

    newest = max(manifests, key=lambda manifest: str(manifest.get("created")))
    summed = {name: sum(values(name)) for name in ("n_windows", "n_reencoded", "n_oom", "seconds")}
    return {
        "model": job.name, "kind": "model", "revision": job.checkpoint.revision, "dataset": corpus.name,
        "key": job.key(corpus.shards[0]), "context": word_units.context_in_words(job.checkpoint, job.how),
        "dtype": job.dtype, "n_stimuli": sum(corpus.n_words), "n_tokens": None, "node": None, "gpus": None,
        "host": newest.get("host"), "code_version": newest.get("code_version"), "created": newest.get("created"),
        "backend": newest.get("backend"), "device": newest.get("device"), **summed,
        "batch_tokens": min(values("batch_tokens"), default=None), "parity_states": None,
        "parity_nats": max(values("parity_nats"), default=None), "reused": reused, "recoveries": 0,
        "notes": " ".join(dict.fromkeys(filter(None, values("notes")))), "libraries": newest.get("libraries"),
    }  # fmt: skip
