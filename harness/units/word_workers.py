"""Worker that computes and stores the surprisals of shards with one model; used as a Ray Data actor."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from harness.checkpoints.checkpoints import Checkpoint
from harness.extraction import backends
from harness.extraction.backends import Model
from harness.protocol import Backend, Dtype, Protocol, content_hash
from harness.storage import tables
from harness.storage.origin import SURPRISALS_VERSION, code_version, libraries, now
from harness.storage.store import Store
from harness.units import corpora, word_units


@dataclass(frozen=True)
class WordJob:
    """One model, its settings, and what its rows state.

    Attributes:
        checkpoint: the model.
        dtype: precision.
        how: context, window, overlap, BOS and, for T5, what the decoder gets.
        backend: library that runs the model.
        device: "cpu" or "cuda".
        out: folder or URL of the store.
        allow_pickle: whether pickled weights may be loaded.
        n_gpus: GPUs per worker.
        gpu_share: fraction of a GPU's memory for vLLM, which allocates it at once.
    """

    checkpoint: Checkpoint
    dtype: Dtype
    how: Protocol
    backend: Backend
    device: str
    out: str
    allow_pickle: bool = False
    n_gpus: int = 0
    gpu_share: float = 1.0

    @property
    def name(self) -> str:
        """Name in the tables; T5 with the context in the encoder is a source of its own."""
        return self.checkpoint.name + (":in-encoder" if self.how.decoder_reads == "stimulus" else "")

    def key(self, shard: str) -> str:
        """Key of the unit with the surprisals of a shard."""
        names = ("window", "overlap", "bos", "decoder_reads")
        settings = {name: getattr(self.how, name) for name in names}
        made_of = {"schema": SURPRISALS_VERSION, "revision": self.checkpoint.revision, "dtype": self.dtype, **settings}
        made_of |= {"reading": self.checkpoint.reading} if self.checkpoint.reading else {}
        return content_hash({**made_of, "shard": shard})[:32]


class WordWorker:
    """Ray Data actor that holds one model and processes shards."""

    job: WordJob

    def __init__(self) -> None:
        self.store = Store(self.job.out)
        self.model: Model | None = None

    @classmethod
    def of(cls, job: WordJob) -> type[WordWorker]:
        """Subclass for one job. A constructor argument would lie in the object store and could be lost with a node."""
        return type("WordWorker", (cls,), {"job": job})

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Process the shards of a batch and store their surprisals; errors are returned as columns."""
        errors = []
        for shard in map(str, batch["shard"]):
            try:
                self._process(shard)
                errors.append(("", ""))
            except Exception as error:  # noqa: BLE001 - Ray Data would report its own error and hide this one
                errors.append((type(error).__name__, str(error).strip()))
        exceptions, messages = zip(*errors, strict=True)
        return {"shard": batch["shard"], "exception": np.array(exceptions), "message": np.array(messages)}

    def _process(self, shard: str) -> None:
        job, key = self.job, self.job.key(shard)
        if self.store.has("surprisals", key):  # already stored by another driver or by a lost worker
            return
        if self.model is None:
            self.model = backends.load(
                job.backend, job.checkpoint, job.device, job.dtype, n_gpus=max(1, job.n_gpus),
                allow_pickle=job.allow_pickle, gpu_share=job.gpu_share,
            )  # fmt: skip
        self._store(key, word_units.read(self.model, corpora.read(shard, self.store), job.how))

    def _store(self, key: str, surprisals: word_units.WordSurprisals) -> None:
        job = self.job
        n_words = len(surprisals.columns["word"])
        origin = {
            "run": None, "model": job.name, "kind": "model", "revision": job.checkpoint.revision,
            "code_version": code_version(), "created": now(), "dataset": None, "dataset_version": None,
            "protocol": job.how.name, "protocol_hash": job.how.hash,
            "context": word_units.context_in_words(job.checkpoint, job.how), "backend": job.backend,
            "dtype": surprisals.facts.get("dtype", job.dtype),
            "seed": 0, "metric": "surprisal_bits", "reading_ms": np.nan, "scored": True,
        }  # fmt: skip
        content = tables.columns_to_arrow("word_surprisals", {**origin, **surprisals.columns})
        facts = {"schema": SURPRISALS_VERSION, "model": job.name, "n_words": n_words, **surprisals.facts}
        facts |= {"host": platform.node(), "code_version": code_version(), "libraries": libraries()}
        self.store.put("surprisals", key, lambda folder: pq.write_table(content, folder / "words.parquet"), facts)
