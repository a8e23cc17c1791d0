"""A corpus -> shards in the store, each a table of words that can be processed independently.

A corpus is a user's file (`word_files.py`) or the words of a data set. It is streamed once, a few thousand words at a
time, so memory does not depend on its length. Workers on any machine process one shard at a time. A shard consists of
whole contexts: preceding words that belong to an earlier shard are stored with it (`contexts.pieces`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness.datasets import word_stream
from harness.datasets.word_stream import COLUMNS, Word, name_of
from harness.protocol import content_hash
from harness.records import Context
from harness.storage.origin import CORPORA_VERSION
from harness.storage.store import Store
from harness.text import contexts
from harness.text.word_files import AS_FOUND, TextOptions

__all__ = ["Corpus", "Shard", "check", "name_of", "put", "read", "shards_of"]

# Approximate words per shard. A worker processes one shard at a time and loses at most one if it dies.
SHARD_WORDS = 5_000


@dataclass(frozen=True)
class Corpus:
    """A corpus in the store.

    Attributes:
        name: name of the file or data set.
        version: 16 hex digits of a hash of its content and of the options for parsing it.
        key: key of its index in the store, kind "corpora".
        shards: keys of its shards in the store, kind "corpora".
        n_words: words of each shard.
    """

    name: str
    version: str
    key: str
    shards: tuple[str, ...]
    n_words: tuple[int, ...]


@dataclass(frozen=True)
class Shard:
    """Some contexts of a corpus.

    Attributes:
        words: the words of all contexts.
        parts: for each context (first, end, n_before): its rows in `words`, of which the first n_before are only
            preceding text and get no surprisal.
        joiner: separator between words.
    """

    words: tuple[Word, ...]
    parts: tuple[tuple[int, int, int], ...]
    joiner: str = " "

    def contexts(self) -> list[Context]:
        """The contexts as texts with the positions of their words."""
        texts = []
        for first, end, n_before in self.parts:
            rows = self.words[first:end]
            words, ids = [row.word for row in rows], [row.word_id for row in rows[n_before:]]
            texts.append(contexts.join(words, ids, n_before, self.joiner))
        return texts

    def own(self) -> list[Word]:
        """The words that get a surprisal, in the order of the contexts."""
        return [row for first, end, n_before in self.parts for row in self.words[first + n_before : end]]


def put(source: str, rule: str, store: Store, data_root: str | None = None, options: TextOptions = AS_FOUND) -> Corpus:
    """Cut a corpus into shards, unless the store already contains them.

    Args:
        source: a file (CSV, TSV or Parquet with a column `word` and optionally `passage`, `sentence`, `word_id`; or
            plain text), with or without the prefix "local:"; or the name of a data set.
        rule: context rule "none", "sentence", "passage" or "corpus", as in `contexts.build`.
        store: store for the shards.
        data_root: root folder of the data sets.
        options: language, joiner and encoding of the text.

    Raises:
        FileNotFoundError: if there is neither such a file nor such a data set.
        ValueError: if there is no column `word`, no word, an empty word or one with surrounding spaces, a duplicate
            id, a passage that is not contiguous, or an unreadable file; the message names file, line and column.
    """
    text = word_stream.open_words(source, data_root, options)
    text.log_notes()
    made_of = [CORPORA_VERSION, text.version, rule, contexts.PIECE, contexts.LEAD, SHARD_WORDS]
    differences = text.differs_from_before()
    key = content_hash(made_of + differences)[:24]
    version = content_hash([text.version, *differences])[:16] if differences else text.version
    if not store.has("corpora", key):
        n_words: list[int] = []
        facts = {"schema": CORPORA_VERSION, "dataset": text.name, "context": rule}
        for number, shard in enumerate(_shards(text.words(), rule, text.joiner)):
            store.put("corpora", f"{key}-{number:06d}", partial(_write, shard), facts | {"n_words": len(shard.own())})
            n_words.append(len(shard.own()))
        store.put("corpora", key, partial(_write_index, n_words), facts | {"n_words": sum(n_words)})
    with store.open("corpora", key) as folder:
        n_words = json.loads((folder / "n_words.json").read_text())
    shards = tuple(f"{key}-{number:06d}" for number in range(len(n_words)))
    return Corpus(text.name, version, key, shards, tuple(n_words))


def read(key: str, store: Store) -> Shard:
    """Load a shard from the store."""
    with store.open("corpora", key) as folder:
        rows = pq.read_table(folder / "words.parquet").to_pydict()
        parts = json.loads((folder / "parts.json").read_text())
        joiner_file = folder / "joiner.json"
        joiner = json.loads(joiner_file.read_text()) if joiner_file.is_file() else " "
    words = tuple(map(Word, *(rows[name] for name in COLUMNS)))
    return Shard(words, tuple(tuple(part) for part in parts), joiner)


def check(source: str, data_root: str | None = None, options: TextOptions = AS_FOUND) -> None:
    """Parse a whole corpus and log notes on unusual content; raises the errors of `put`."""
    text = word_stream.open_words(source, data_root, options)
    text.log_notes()
    for _ in text.words():
        pass


def shards_of(source: str, rule: str, data_root: str | None = None, options: TextOptions = AS_FOUND) -> Iterator[Shard]:
    """Yield the shards of a corpus without storing them; raises the errors of `put`."""
    text = word_stream.open_words(source, data_root, options)
    return _shards(text.words(), rule, text.joiner)


# --- words -> shards --------------------------------------------------------------------------------------------------


def _shards(words: Iterator[Word], rule: str, joiner: str) -> Iterator[Shard]:
    context_keys = {
        "none": lambda row: row.word_id, "sentence": lambda row: (row.passage, row.sentence),
        "passage": lambda row: row.passage, "corpus": lambda _: "",
    }  # fmt: skip
    if rule not in context_keys:
        raise ValueError(f"context {rule!r} is unknown; use one of {', '.join(context_keys)}.")
    rows: list[Word] = []
    parts: list[tuple[int, int, int]] = []
    n_own = 0
    for _, text in groupby(words, key=context_keys[rule]):
        for before, own in contexts.pieces(text):
            parts.append((len(rows), len(rows) + len(before) + len(own), len(before)))
            rows += [*before, *own]
            n_own += len(own)
            if n_own >= SHARD_WORDS:
                yield Shard(tuple(rows), tuple(parts), joiner)
                rows, parts, n_own = [], [], 0
    if rows:
        yield Shard(tuple(rows), tuple(parts), joiner)


def _write(shard: Shard, folder: Path) -> None:
    columns = dict(zip(COLUMNS, map(list, zip(*shard.words, strict=True)), strict=True))
    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    pq.write_table(pa.table(columns, schema=schema), folder / "words.parquet")
    (folder / "parts.json").write_text(json.dumps(shard.parts))
    if shard.joiner != " ":
        (folder / "joiner.json").write_text(json.dumps(shard.joiner))


def _write_index(n_words: list[int], folder: Path) -> None:
    (folder / "n_words.json").write_text(json.dumps(n_words))
