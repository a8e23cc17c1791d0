"""Surprisal of every word of large corpora under several models, written to the table `word_surprisals` with Ray Data.

The model queue of a run (model_queue.py) places the models, starts as many workers of each as cores or GPUs and memory
allow, replaces lost ones, and limits the time of each shard; every finished shard is stored, so that a run that was
killed resumes at the first missing one. When a model has all shards of all corpora, Ray Data streams them into the
partitions (run, corpus, model), which are renamed into place. At most one shard per worker is in memory at any time,
however long the corpus.

Ray Data's own checkpointing (2.60) is not used. It records which rows of one pipeline have been written, for one driver
that restarts the same pipeline. Here a shard is stored under a hash of what defines it: other runs reuse it, several
drivers share the work, it survives copying the store, and its checksum is verified before it goes into a table.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.checkpoints import checkpoints
from harness.loading import memory
from harness.protocol import Protocol, content_hash
from harness.runs import assemble, ray_session, reservations, stopping
from harness.runs.model_queue import ModelQueue, WorkerRules
from harness.runs.model_worker import ExtractionResult
from harness.runs.stopping import Stop
from harness.runs.workload import Failure, ProgressListener, guarded
from harness.storage import table_files, tables, transfer
from harness.storage.origin import SURPRISALS_VERSION
from harness.storage.store import Store
from harness.units import corpora, word_units
from harness.units.corpora import Corpus
from harness.units.shard_units import ShardUnit, WordSource
from harness.units.word_units import WordOptions

logger = logging.getLogger(__name__)


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
    """State shared by the steps of one run.

    memory_bytes: limit for all workers on the CPU together; None for that of each node.
    n_left: source -> words that the store does not hold.
    n_extracted: source -> words processed by this driver.
    recoveries: key of a unit -> number of restarts.
    """

    corpora: Sequence[Corpus]
    options: WordOptions
    store: Store
    memory_bytes: float | None
    listener: ProgressListener
    outcome: WordsOutcome
    stop: Stop
    n_left: dict[WordSource, int] = field(default_factory=dict)
    n_extracted: Counter[WordSource] = field(default_factory=Counter)
    recoveries: Counter[str] = field(default_factory=Counter)


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
        memory_gb: memory limit for all workers together; None uses all free memory, on a cluster that of each node.
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
        ray_session.join(address, store)
        here = None if address else float(memory.free_bytes("cpu"))
        memory_bytes = memory_gb * 1e9 if memory_gb else here
        failures: list[Failure] = []
        models = _sources(names, options, failures)
        run_name = _name(models, all_corpora, options.protocol)
        table = f"{tables.folder(store.out, 'word_surprisals')}/run={run_name}"
        outcome = WordsOutcome(run_name, table, failures=failures)
        with stopping.signals() as stop:
            execution = _Execution(all_corpora, options, store, memory_bytes, listener, outcome, stop)
            with store.lock_tables(run_name):
                _remove_faulty_tables(store, run_name)
            _compute(models, execution)
            with store.lock_tables(run_name):
                _write_tables(models, execution)
    for failure in outcome.failures:
        listener.failed(failure)
    outcome.seconds = time.monotonic() - started
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


def _name(sources: Sequence[WordSource], all_corpora: Sequence[Corpus], protocol: Protocol) -> str:
    """Return the run's name, a hash of the protocol, corpora and models."""
    content = {
        "schema": SURPRISALS_VERSION, "how": asdict(protocol),
        "corpora": {corpus.name: corpus.version for corpus in all_corpora},
        "models": {source.name: [source.checkpoint.revision, source.dtype] for source in sources},
    }  # fmt: skip
    return f"surprisal-{content_hash(content)[:10]}"


def _sources(names: Sequence[str], options: WordOptions, failures: list[Failure]) -> list[WordSource]:
    """Resolve the models; those that fail are added to `failures`."""
    sources: dict[str, WordSource] = {}
    for name, known_as in checkpoints.names_of(dict.fromkeys(names)).items():
        try:
            checkpoint, dtype = word_units.resolve(name, options.dtype, known_as, allow_pickle=options.allow_pickle)
            for protocol in word_units.protocols_of(checkpoint, options.protocol, options.t5_reads):
                source = WordSource(checkpoint, dtype, protocol)
                if source.name in sources and sources[source.name].checkpoint.revision != checkpoint.revision:
                    raise ValueError(f"two models are called {source.name!r}; rename a folder.")
                sources[source.name] = source
        except Exception as error:  # noqa: BLE001 - the other models go on
            failures.append(Failure.of(error, "models", model=known_as))
    return list(sources.values())


def _remove_faulty_tables(store: Store, run_name: str) -> None:
    if fault := next(table_files.faults(store.fs, assemble.root_of(store), run_name), ""):
        logger.warning("run %s: %s; its tables are written again.", run_name, fault)
        tables.remove(store.out, run_name)


# --- extraction -------------------------------------------------------------------------------------------------------


def _compute(sources: Sequence[WordSource], execution: _Execution) -> None:
    """Compute the shards that the store does not hold. A model with a shard that fails is not processed further."""
    listener, outcome = execution.listener, execution.outcome
    sizes: dict[str, int] = {}
    for corpus in execution.corpora:
        sizes |= zip(corpus.shards, corpus.n_words, strict=True)
    pending = {source: _missing(source, sizes, execution) for source in sources}
    n_left = {source: sum(sizes[unit.shard] for unit in units) for source, units in pending.items()}
    execution.n_left = n_left
    failed: dict[WordSource, Failure] = {}
    for source in sources:
        for note in source.checkpoint.notes:
            listener.remarked(source.name, note)
        listener.words(source.name, sum(sizes.values()) - n_left[source], sum(sizes.values()))
    for result in _results([unit for units in pending.values() for unit in units], execution):
        unit = result.unit
        assert isinstance(unit, ShardUnit)  # noqa: S101 - the queue holds no others
        source, n_words = unit.source, sizes[unit.shard]
        if result.error:
            failure = Failure.of(result.error, "surprisal", source.name, protocol=source.protocol.name)
            failed.setdefault(source, failure)
        else:
            execution.n_extracted[source] += n_words if result.is_ours else 0
            n_left[source] -= n_words
            listener.words(source.name, sum(sizes.values()) - n_left[source], sum(sizes.values()))
    outcome.n_read = execution.n_extracted.total()
    outcome.failures.extend(failed.values())
    outcome.was_stopped = any(n_left[source] for source in sources if source not in failed)


def _missing(source: WordSource, shards: Iterable[str], execution: _Execution) -> list[ShardUnit]:
    """The units that the store does not hold. Checksums are verified unless all tables exist, which have their own."""
    store, run_name = execution.store, execution.outcome.run
    is_assembled = all(_is_assembled(source, corpus, store, run_name) for corpus in execution.corpora)
    units = [ShardUnit(source, shard) for shard in shards]
    return [unit for unit in units if not store.has(unit.stored_as, unit.key, every_byte=not is_assembled)]


def _results(units: Sequence[ShardUnit], execution: _Execution) -> Iterator[ExtractionResult]:
    """Process units on all cores or GPUs; after a failure the other units of its source are dropped."""
    if not units:
        return
    options, store = execution.options, execution.store
    device = reservations.device_of(options.device)
    rules = WorkerRules(n_claimed=1, cores=1.0, memory_bytes=execution.memory_bytes)
    queue = ModelQueue(
        store, device, execution.listener, allow_pickle=options.allow_pickle, backend=options.backend, rules=rules
    )
    queue.add(*units)
    for result in queue.results(execution.stop):
        if result.error:
            queue.drop([unit for unit in units if unit.source == result.unit.source])
        yield result
    execution.recoveries = queue.recoveries


# --- tables -----------------------------------------------------------------------------------------------------------


def _write_tables(sources: Sequence[WordSource], execution: _Execution) -> None:
    """Assemble the tables of the models that are complete, and list their files."""
    store, listener, outcome = execution.store, execution.listener, execution.outcome
    root, name = assemble.root_of(store), outcome.run
    units: list[dict[str, Any]] = []
    extractions: list[dict[str, Any]] = []
    for source in sources:
        if execution.n_left[source]:
            continue
        try:
            listener.busy(f"assembling the words of {source.name}")
            for corpus in execution.corpora:
                _assemble(source, corpus, store, outcome)
                units += _unit_rows(source, corpus, name)
                extractions.append(_extraction_row(source, corpus, execution))
        except Exception as error:  # noqa: BLE001 - the other models go on
            outcome.failures.append(Failure.of(error, "surprisal", source.name, protocol=source.protocol.name))
    table_files.forget(store.fs, root, name)
    assemble.write_rows(store, name, "units", units)
    assemble.write_rows(store, name, "extractions", [{**row, "run": name} for row in extractions])
    table_files.write(store.fs, root, name)


def _assemble(source: WordSource, corpus: Corpus, store: Store, outcome: WordsOutcome) -> None:
    """Stream the surprisals of a corpus into its partition, unless that exists."""
    outcome.n_words += sum(corpus.n_words)
    if _is_assembled(source, corpus, store, outcome.run):
        return
    files = [f"{store.folder('surprisals', ShardUnit(source, shard).key)}/words.parquet" for shard in corpus.shards]
    assemble.write_partition(
        store, "word_surprisals", outcome.run, corpus.name, source.name, files, dataset_version=corpus.version
    )


def _is_assembled(source: WordSource, corpus: Corpus, store: Store, run_name: str) -> bool:
    folder = tables.folder(assemble.root_of(store), "word_surprisals")
    return transfer.exists(store.fs, f"{folder}/{assemble.partition(run_name, corpus.name, source.name)}")


def _unit_rows(source: WordSource, corpus: Corpus, run_id: str) -> list[dict[str, Any]]:
    """Return rows of `units`: the units that the partition is made of, for `harness cache`."""
    labels = {"run": run_id, "model": source.name, "dataset": corpus.name, "protocol": source.protocol.name}
    keys = [("corpora", corpus.key), *(("corpora", shard) for shard in corpus.shards)]
    keys += [("surprisals", ShardUnit(source, shard).key) for shard in corpus.shards]
    return [{**labels, "kind": kind, "key": key} for kind, key in keys]


def _extraction_row(source: WordSource, corpus: Corpus, execution: _Execution) -> dict[str, Any]:
    """Return the row of `extractions` of a model and a corpus, aggregated over its shards."""
    keys = [ShardUnit(source, shard).key for shard in corpus.shards]
    manifests = [execution.store.manifest("surprisals", key) or {} for key in keys]

    def values(name: str) -> list[Any]:
        return [manifest[name] for manifest in manifests if manifest.get(name) is not None]

    newest = max(manifests, key=lambda manifest: str(manifest.get("created")))
    of_newest = ("host", "code_version", "created", "backend", "device", "libraries")
    summed = {name: sum(values(name)) for name in ("n_windows", "n_reencoded", "n_oom", "seconds")}
    return {
        "model": source.name, "kind": "model", "revision": source.checkpoint.revision, "dataset": corpus.name,
        "key": keys[0], "context": word_units.context_in_words(source.checkpoint, source.protocol),
        "dtype": source.dtype, "n_stimuli": sum(corpus.n_words), **{name: newest.get(name) for name in of_newest},
        **dict.fromkeys(("n_tokens", "node", "gpus", "parity_states")), **summed,
        "batch_tokens": min(values("batch_tokens"), default=None),
        "parity_nats": max(values("parity_nats"), default=None), "reused": not execution.n_extracted[source],
        "recoveries": sum(execution.recoveries[key] for key in keys),
        "notes": " ".join(dict.fromkeys(filter(None, values("notes")))),
    }  # fmt: skip
