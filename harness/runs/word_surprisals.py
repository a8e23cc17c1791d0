"""Models x corpora -> the table `word_surprisals`, by Ray Data.

For each model a pool of actors reads the shards of all corpora, as many at once as cores or GPUs and memory allow, and
stores each as it is read: what is killed goes on at the shard where it was. When a corpus is whole, Ray Data streams
its shards into the partition of (run, corpus, model), which takes its place in one step. No more than a shard a worker
is in memory at any time, however long the corpus.

Ray Data's own checkpointing (2.60) notes which rows of one pipeline have been written, for one driver that begins the
same pipeline again. A shard here is stored by what defines it: other runs find it, several drivers share the work, a
copied store keeps it, and every byte is compared before it stands in a table. So that is not used.
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
from harness.protocol import AskedBackend, AskedDtype, Protocol, content_hash
from harness.runs import assemble, ray_session, reservations, stopping
from harness.runs.model_worker import MADE_UP
from harness.runs.stopping import Stop
from harness.runs.workload import Failure, ProgressListener, guarded
from harness.storage import table_files, tables, transfer
from harness.storage.origin import SURPRISALS_VERSION
from harness.storage.store import Store
from harness.text.word_files import AS_FOUND, TextOptions
from harness.units import corpora, word_units
from harness.units.corpora import Corpus
from harness.units.word_workers import WordJob, WordWorker

logger = logging.getLogger(__name__)

# What a worker takes besides the weights: Python with torch, the texts and the logits of a shard.
WORKER_BYTES = 1.2e9
# Of Ray's object store, where tables pass through on their way.
STORE_BYTES = 256 * 2**20


@dataclass
class WordsOutcome:
    """How it ended.

    n_words: of all models together, those in the table; n_read: those that were not there before. was_stopped: whether
    it was asked to end before it was done.
    """

    run: str
    table: str
    n_words: int = 0
    n_read: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    was_stopped: bool = False


def run(
    sources: Sequence[str],
    names: Sequence[str],
    how: Protocol,
    out: str,
    *,
    t5_reads: str = "text",
    dtype: AskedDtype = "auto",
    backend: AskedBackend = "auto",
    device: str = "auto",
    data_root: str | None = None,
    address: str | None = None,
    memory_gb: float | None = None,
    allow_pickle: bool = False,
    options: TextOptions = AS_FOUND,
    listener: ProgressListener | None = None,
    keep_going: bool = False,
) -> WordsOutcome:
    """Write the partitions of all models and corpora that are not there.

    Args:
        sources: files or data sets (`corpora.put`).
        names: models: of the table, Hub ids or folders.
        how: context, window, overlap and BOS.
        out: folder or URL.
        t5_reads: "text", "context" or "both".
        dtype: of all models, or "auto".
        backend: likewise.
        device: "auto", "cpu" or "cuda".
        data_root: where data sets lie.
        address: a Ray cluster; None starts a local Ray.
        memory_gb: what workers may take together; None is what is free.
        allow_pickle: whether pickled weights are loaded.
        options: what the user says of the texts.
        listener: is told what happens.
        keep_going: whether models whose names nobody knows are failures like others.

    Returns:
        How it ended; a failing model does not stop the others.

    Raises:
        ValueError: if a corpus cannot be read, the name of a model is not known, or memory is too small for one worker.
        FileNotFoundError: if there is no such corpus.
    """
    out = transfer.absolute(out) if address else out
    started, store = time.monotonic(), Store(out)
    listener = guarded(listener)
    for each in () if keep_going else names:
        checkpoints.require_known(each)
    store.require_writable()
    store.sweep()
    with store.at_work():
        listener.busy("cutting the corpora into shards")
        known = _corpora(sources, how, store, data_root, options)
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray warns of how its own pools of actors are made
        ray_session.start(address)
        if address:
            ray_session.require_shared(store)
        failures: list[Failure] = []
        jobs = list(_jobs(names, how, t5_reads, dtype, backend, device, out, allow_pickle, failures))
        name = _name(jobs, known, how)
        outcome = WordsOutcome(name, f"{tables.folder(out, 'word_surprisals')}/run={name}", failures=failures)
        with stopping.signals(ctrl_c=False) as stop, store.tables_of(name):
            _write(jobs, known, store, memory_gb, listener, outcome, stop)
    for failure in failures:
        listener.failed(failure)
    outcome.seconds = time.monotonic() - started
    return outcome


def _corpora(
    sources: Sequence[str], how: Protocol, store: Store, data_root: str | None, options: TextOptions
) -> list[Corpus]:
    known = [corpora.put(source, how.context, store, data_root, options) for source in dict.fromkeys(sources)]
    if doubled := {one.name for one in known if sum(one.name == other.name for other in known) > 1}:
        raise ValueError(f"two corpora are called {min(doubled)!r}; rename a file.")
    return known


def _name(jobs: Sequence[WordJob], known: Sequence[Corpus], how: Protocol) -> str:
    """Of the run: a hash of what was asked for."""
    content = {
        "schema": SURPRISALS_VERSION, "how": asdict(how), "corpora": {one.name: one.version for one in known},
        "models": {job.name: [job.checkpoint.revision, job.dtype] for job in jobs},
    }  # fmt: skip
    return f"surprisal-{content_hash(content)[:10]}"


def _write(
    jobs: Sequence[WordJob], known: Sequence[Corpus], store: Store, memory_gb: float | None, listener: ProgressListener,
    outcome: WordsOutcome, stop: Stop,
) -> None:  # fmt: skip
    """Read and put together what is not there, model by model, and list the files of the tables."""
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
            # What goes into a table is compared byte by byte; what is in one already was compared then.
            every_byte = not all(_is_assembled(job, corpus, store, name) for corpus in known)
            if wrong := _read(job, known, store, memory_gb, listener, outcome, stop, every_byte=every_byte):
                outcome.failures.append(wrong)
                continue
            if outcome.was_stopped:  # what was read is stored
                break
            listener.busy(f"putting together the words of {job.name}")
            for corpus in known:
                _assemble(job, corpus, store, outcome)
                units += _unit_rows(job, corpus, name)
                extractions.append(_extraction_row(job, corpus, store, reused=outcome.n_read == n_read))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one model, the others go on
            outcome.failures.append(Failure.of(error, "surprisal", job.name, protocol=job.how.name))
    table_files.forget(store.fs, root, name)
    assemble.write_rows(store, name, "units", units)
    assemble.write_rows(store, name, "extractions", [{**row, "run": name} for row in extractions])
    table_files.write(store.fs, root, name)


def _jobs(
    names: Sequence[str], how: Protocol, t5_reads: str, dtype: AskedDtype, backend: AskedBackend, device: str, out: str,
    allow_pickle: bool, failures: list[Failure],
) -> list[WordJob]:  # fmt: skip
    device = reservations.device_of(device)
    cluster = reservations.cluster(device)
    larger = reservations.to_come() if device == "cuda" else None
    made: dict[str, WordJob] = {}
    for name, known_as in checkpoints.names_of(dict.fromkeys(names)).items():
        try:
            checkpoint, precise = word_units.resolve(name, dtype, known_as, allow_pickle=allow_pickle)
            library, _ = backends.choose(checkpoint, backend, device, precise, states=False)
            demands, dtypes = [demand_of(checkpoint, library)], {checkpoint.name: precise}
            (placement,) = place(demands, cluster, dtypes)
            if placement.refused and larger:  # Ray has an autoscaler start a node, once workers are asked for
                (placement,) = place(demands, Cluster((larger,)), dtypes)
            if placement.refused:
                raise memory.InsufficientMemoryError(f"{checkpoint.name}: {placement.refused}")
            for reading in word_units.readings_of(checkpoint, how, t5_reads):
                where = "cpu" if MADE_UP in os.environ else device
                job = WordJob(
                    checkpoint, precise, reading, library, where, out, allow_pickle, placement.n_gpus,
                    placement.gpu_share,
                )  # fmt: skip
                if job.name in made and made[job.name].checkpoint.revision != checkpoint.revision:
                    raise ValueError(f"two models are called {job.name!r}; rename a folder.")
                made[job.name] = job
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one model, the others go on
            failures.append(Failure.of(error, "models", model=known_as))
    return list(made.values())


def _read(
    job: WordJob, known: Sequence[Corpus], store: Store, memory_gb: float | None, listener: ProgressListener,
    outcome: WordsOutcome, stop: Stop, *, every_byte: bool,
) -> Failure | None:  # fmt: skip
    """Read what the store does not hold; what was wrong with the first shard that could not be read."""
    sizes = {shard: n for corpus in known for shard, n in zip(corpus.shards, corpus.n_words, strict=True)}
    pending = [shard for shard in sizes if not store.has("surprisals", job.key(shard), every_byte=every_byte)]
    n_words, n_left = sum(sizes.values()), sum(sizes[shard] for shard in pending)
    listener.words(job.name, n_words - n_left, n_words)
    if not pending:
        return None
    outcome.was_stopped |= stop.is_asked
    if outcome.was_stopped:
        return None
    _bound_memory()
    size = _pool_size(job, len(pending), memory_gb)
    need: dict[str, Any] = {"num_cpus": 1}
    if job.n_gpus:
        need = {"num_cpus": 0, "num_gpus": job.n_gpus if job.n_gpus > 1 else job.gpu_share}
    read = ray.data.from_items([{"shard": shard} for shard in pending], override_num_blocks=len(pending)).map_batches(
        WordWorker.of(job), batch_size=1, compute=ray.data.ActorPoolStrategy(size=size), **need
    )
    wrong: Failure | None = None
    for row in read.iter_rows():
        if row["exception"]:
            wrong = wrong or Failure("surprisal", job.name, "", job.how.name, row["exception"], row["message"])
            continue
        outcome.n_read += sizes[row["shard"]]
        n_left -= sizes[row["shard"]]
        listener.words(job.name, n_words - n_left, n_words)
        if stop.is_asked and n_left:
            outcome.was_stopped = True
            break
    return wrong


def _bound_memory() -> None:
    context = ray.data.DataContext.get_current()
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what went wrong is raised, and told once
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(object_store_memory=STORE_BYTES)


def _pool_size(job: WordJob, n_shards: int, memory_gb: float | None) -> int:
    """Workers that there is work, a core or GPUs, and memory for."""
    n_cpus, n_gpus = ray_session.resources()
    larger = reservations.to_come()
    n_gpus = max(n_gpus, larger.n_gpus if larger else 0)
    if job.n_gpus:
        return max(1, min(n_shards, int(n_gpus / (job.n_gpus if job.n_gpus > 1 else job.gpu_share))))
    each = WORKER_BYTES + job.checkpoint.n_parameters * (4 if job.dtype == "float32" else 2)
    free = memory_gb * 1e9 if memory_gb else memory.free_bytes("cpu")
    if free < each:
        raise memory.InsufficientMemoryError(
            f"{job.name}: a worker takes about {each / 1e9:.1f} GB, {free / 1e9:.1f} GB are given or free; give more "
            "(--memory-gb), or use bfloat16."
        )
    return max(1, min(n_shards, n_cpus, int(free / each)))


def _assemble(job: WordJob, corpus: Corpus, store: Store, outcome: WordsOutcome) -> None:
    """Stream the bits of a corpus into its partition, unless it is there."""
    outcome.n_words += sum(corpus.n_words)
    if _is_assembled(job, corpus, store, outcome.run):
        return
    files = [f"{store.folder('surprisals', job.key(shard))}/words.parquet" for shard in corpus.shards]
    _bound_memory()
    assemble.write_partition(
        store, "word_surprisals", outcome.run, corpus.name, job.name, files, dataset_version=corpus.version
    )


def _is_assembled(job: WordJob, corpus: Corpus, store: Store, run_name: str) -> bool:
    folder = tables.folder(assemble.root_of(store), "word_surprisals")
    return transfer.exists(store.fs, f"{folder}/{assemble.partition(run_name, corpus.name, job.name)}")


def _unit_rows(job: WordJob, corpus: Corpus, run_id: str) -> list[dict[str, Any]]:
    """What the partition is made of, for `harness cache`."""
    of = {"run": run_id, "model": job.name, "dataset": corpus.name, "protocol": job.how.name}
    keys = [("corpora", corpus.key), *(("corpora", shard) for shard in corpus.shards)]
    keys += [("surprisals", job.key(shard)) for shard in corpus.shards]
    return [{**of, "kind": kind, "key": key} for kind, key in keys]


def _extraction_row(job: WordJob, corpus: Corpus, store: Store, *, reused: bool) -> dict[str, Any]:
    """A row of `extractions`: how a model read a corpus, over its shards."""
    found = [store.manifest("surprisals", job.key(shard)) or {} for shard in corpus.shards]

    def values(name: str) -> list[Any]:
        return [facts[name] for facts in found if facts.get(name) is not None]

    newest = max(found, key=lambda facts: str(facts.get("created")))
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
