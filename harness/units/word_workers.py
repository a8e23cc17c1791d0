"""One model that reads shards of words and stores their bits, in an actor of Ray Data's or anywhere else."""

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
    """One model in one of its readings: what it reads by, and what its rows say of it."""

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
        """In the tables: T5's second reading is a source of its own, as in a run."""
        return self.checkpoint.name + (":in-encoder" if self.how.decoder_reads == "stimulus" else "")

    def key(self, shard: str) -> str:
        """Of the unit that holds the bits of a shard."""
        names = ("window", "overlap", "bos", "decoder_reads")
        how = {name: getattr(self.how, name) for name in names}
        made_of = {"schema": SURPRISALS_VERSION, "revision": self.checkpoint.revision, "dtype": self.dtype, **how}
        made_of |= {"reading": self.checkpoint.reading} if self.checkpoint.reading else {}
        return content_hash({**made_of, "shard": shard})[:32]


class WordWorker:
    """Holds one model and reads shards; an actor of Ray Data's."""

    job: WordJob

    def __init__(self) -> None:
        self.store = Store(self.job.out)
        self.model: Model | None = None

    @classmethod
    def of(cls, job: WordJob) -> type[WordWorker]:
        """The class for one job. An argument would lie in the object store, where it can be lost with a node."""
        return type("WordWorker", (cls,), {"job": job})

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Read the shards of a batch and store their bits; what is wrong with one comes back in words."""
        said = []
        for shard in map(str, batch["shard"]):
            try:
                self._read(shard)
                said.append(("", ""))
            except Exception as error:  # noqa: BLE001 - Ray Data would tell of its own trouble with it instead
                said.append((type(error).__name__, str(error).strip()))
        kinds, messages = zip(*said, strict=True)
        return {"shard": batch["shard"], "exception": np.array(kinds), "message": np.array(messages)}

    def _read(self, shard: str) -> None:
        job, key = self.job, self.job.key(shard)
        if self.store.has("surprisals", key):  # another driver, or the worker that was lost, has read it
            return
        if self.model is None:
            self.model = backends.load(
                job.backend, job.checkpoint, job.device, job.dtype, n_gpus=max(1, job.n_gpus),
                allow_pickle=job.allow_pickle, gpu_share=job.gpu_share,
            )  # fmt: skip
        self._store(key, word_units.read(self.model, corpora.read(shard, self.store), job.how))

    def _store(self, key: str, bits: word_units.WordSurprisals) -> None:
        job = self.job
        n_words = len(bits.columns["word"])
        origin = {
            "run": None, "model": job.name, "kind": "model", "revision": job.checkpoint.revision,
            "code_version": code_version(), "created": now(), "dataset": None, "dataset_version": None,
            "protocol": job.how.name, "protocol_hash": job.how.hash,
            "context": word_units.context_in_words(job.checkpoint, job.how), "backend": job.backend,
            "dtype": bits.facts.get("dtype", job.dtype),
            "seed": 0, "metric": "surprisal_bits", "reading_ms": np.nan, "scored": True,
        }  # fmt: skip
        content = tables.columns_to_arrow("word_surprisals", {**origin, **bits.columns})
        facts = {"schema": SURPRISALS_VERSION, "model": job.name, "n_words": n_words, **bits.facts}
        facts |= {"host": platform.node(), "code_version": code_version(), "libraries": libraries()}
        self.store.put("surprisals", key, lambda to: pq.write_table(content, to / "words.parquet"), facts)
