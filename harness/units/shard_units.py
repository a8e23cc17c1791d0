"""Surprisals of a shard of a corpus under one model: the unit of `harness surprisal --out`."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq

from harness.checkpoints.checkpoints import Checkpoint
from harness.extraction.backends import Model
from harness.protocol import Dtype, Protocol, content_hash
from harness.storage import tables
from harness.storage.origin import SURPRISALS_VERSION, code_version, libraries, now
from harness.storage.store import Store
from harness.units import corpora, word_units


@dataclass(frozen=True)
class WordSource:
    """A model, its precision, and how it gets its texts.

    Attributes:
        checkpoint: the model.
        dtype: precision.
        protocol: context, window, overlap, BOS and, for T5, what the decoder gets.
    """

    checkpoint: Checkpoint
    dtype: Dtype
    protocol: Protocol

    @property
    def name(self) -> str:
        """Name in the tables; T5 with the context in the encoder is a source of its own."""
        return self.checkpoint.name + (":in-encoder" if self.protocol.decoder_reads == "stimulus" else "")


@dataclass(frozen=True)
class ShardUnit:
    """Surprisals of the words of a shard from one source.

    Attributes:
        source: the model and its settings.
        shard: key of the shard in the store, kind "corpora".
    """

    source: WordSource
    shard: str
    stored_as: ClassVar[str] = "surprisals"
    states: ClassVar[bool] = False
    seed: ClassVar[int | None] = None  # trained weights

    @property
    def checkpoint(self) -> Checkpoint:
        """The model."""
        return self.source.checkpoint

    @property
    def dtype(self) -> Dtype:
        """Precision of the model."""
        return self.source.dtype

    @cached_property
    def key(self) -> str:
        """Hash of the model, the shard and the settings."""
        names = ("window", "overlap", "bos", "decoder_reads")
        settings = {name: getattr(self.source.protocol, name) for name in names}
        checkpoint = self.checkpoint
        made_of = {"schema": SURPRISALS_VERSION, "revision": checkpoint.revision, "dtype": self.dtype, **settings}
        made_of |= {"reading": checkpoint.reading} if checkpoint.reading else {}
        return content_hash({**made_of, "shard": self.shard})[:32]

    def run(self, model: Model, store: Store) -> None:
        """Compute the surprisals and store them under this unit's key; raises the errors of `word_units.read`."""
        source, protocol = self.source, self.source.protocol
        surprisals = word_units.read(model, corpora.read(self.shard, store), protocol)
        n_words = len(surprisals.columns["word"])
        origin = {
            "run": None, "model": source.name, "kind": "model", "revision": self.checkpoint.revision,
            "code_version": code_version(), "created": now(), "dataset": None, "dataset_version": None,
            "protocol": protocol.name, "protocol_hash": protocol.hash,
            "context": word_units.context_in_words(self.checkpoint, protocol), "backend": model.backend,
            "dtype": surprisals.facts.get("dtype", self.dtype),
            "seed": 0, "metric": "surprisal_bits", "reading_ms": np.nan, "scored": True,
        }  # fmt: skip
        content = tables.columns_to_arrow("word_surprisals", {**origin, **surprisals.columns})
        facts = {"schema": SURPRISALS_VERSION, "model": source.name, "n_words": n_words, **surprisals.facts}
        facts |= {"host": platform.node(), "code_version": code_version(), "libraries": libraries()}
        store.put(self.stored_as, self.key, lambda folder: pq.write_table(content, folder / "words.parquet"), facts)
