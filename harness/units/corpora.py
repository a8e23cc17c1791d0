"""A corpus -> shards in the store, each a table of words that can be read on its own.

A corpus is a file of one's own (`word_files.py`) or the words of a data set. It is gone through once, a few thousand
words at a time, so that its length does not matter; whoever reads it, on any machine, takes a shard at a time. A shard
holds whole contexts: what comes before a word that is not its own is written beside it (`contexts.pieces`).
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

# Words of a shard, about; a worker reads one at a time, and no more than one is lost with it.
SHARD_WORDS = 5_000


@dataclass(frozen=True)
class Corpus:
    """A corpus that is in the store.

    name, version: of the file or data set; 16 hex digits of its content and of how it is read. key, shards: of its
    index and of each shard, kind "corpora". n_words: of each shard.
    """

    name: str
    version: str
    key: str
    shards: tuple[str, ...]
    n_words: tuple[int, ...]


@dataclass(frozen=True)
class Shard:
    """Some contexts of a corpus.

    parts: for each context its rows in `words`, first and end, and how many of them are only read before its own.
    joiner: what stands between words.
    """

    words: tuple[Word, ...]
    parts: tuple[tuple[int, int, int], ...]
    joiner: str = " "

    def contexts(self) -> list[Context]:
        """Their texts."""
        made = []
        for first, end, n_before in self.parts:
            rows = self.words[first:end]
            words, ids = [row.word for row in rows], [row.word_id for row in rows[n_before:]]
            made.append(contexts.join(words, ids, n_before, self.joiner))
        return made

    def own(self) -> list[Word]:
        """The words that are read for themselves, in the order of the contexts."""
        return [row for first, end, n_before in self.parts for row in self.words[first + n_before : end]]


def put(source: str, rule: str, store: Store, data_root: str | None = None, options: TextOptions = AS_FOUND) -> Corpus:
    """Cut a corpus into shards, unless the store holds them.

    Args:
        source: a file (CSV, TSV or Parquet with a column `word`, and `passage`, `sentence`, `word_id` if there are
            such; or plain text), with or without "local:" before it; or the name of a data set.
        rule: "none", "sentence", "passage" or "corpus", as of `contexts.build`.
        store: where to.
        data_root: where data sets lie.
        options: what the user says of the text.

    Raises:
        FileNotFoundError: if there is neither such a file nor such a data set.
        ValueError: naming file, line and column, if there is no column `word`, no word, a word without text or with
            spaces around it, an id that stands twice, a passage that is not contiguous, or the file cannot be read.
    """
    text = word_stream.opened(source, data_root, options)
    text.log_notes()
    made_of = [CORPORA_VERSION, text.version, rule, contexts.PIECE, contexts.LEAD, SHARD_WORDS]
    differs = text.differs_from_before()
    key = content_hash(made_of + differs)[:24]
    version = content_hash([text.version, *differs])[:16] if differs else text.version
    if not store.has("corpora", key):
        n_words = []
        for number, shard in enumerate(_shards(text.words(), rule, text.joiner)):
            facts = {"schema": CORPORA_VERSION, "dataset": text.name, "context": rule, "n_words": len(shard.own())}
            store.put("corpora", f"{key}-{number:06d}", partial(_write, shard), facts)
            n_words.append(len(shard.own()))
        index = json.dumps(n_words)
        facts = {"schema": CORPORA_VERSION, "dataset": text.name, "context": rule, "n_words": sum(n_words)}
        store.put("corpora", key, partial(_write_index, index), facts)
    with store.open("corpora", key) as folder:
        n_words = json.loads((folder / "n_words.json").read_text())
    shards = tuple(f"{key}-{number:06d}" for number in range(len(n_words)))
    return Corpus(text.name, version, key, shards, tuple(n_words))


def read(key: str, store: Store) -> Shard:
    """A shard of the store."""
    with store.open("corpora", key) as folder:
        rows = pq.read_table(folder / "words.parquet").to_pydict()
        parts = json.loads((folder / "parts.json").read_text())
        joiner = folder / "joiner.json"
        between = json.loads(joiner.read_text()) if joiner.is_file() else " "
    words = tuple(map(Word, *(rows[name] for name in COLUMNS)))
    return Shard(words, tuple(tuple(part) for part in parts), between)


def check(source: str, data_root: str | None = None, options: TextOptions = AS_FOUND) -> None:
    """Go through a corpus and log what is unusual; errors of `put`."""
    text = word_stream.opened(source, data_root, options)
    text.log_notes()
    for _ in text.words():
        pass


def shards_of(source: str, rule: str, data_root: str | None = None, options: TextOptions = AS_FOUND) -> Iterator[Shard]:
    """The shards of a corpus that is not put into a store; errors of `put`."""
    text = word_stream.opened(source, data_root, options)
    return _shards(text.words(), rule, text.joiner)


# --- words -> shards --------------------------------------------------------------------------------------------------


def _shards(words: Iterator[Word], rule: str, joiner: str) -> Iterator[Shard]:
    texts = {
        "none": lambda row: row.word_id, "sentence": lambda row: (row.passage, row.sentence),
        "passage": lambda row: row.passage, "corpus": lambda _: "",
    }  # fmt: skip
    if rule not in texts:
        raise ValueError(f"context {rule!r} is unknown; use {', '.join(texts)}.")
    rows: list[Word] = []
    parts: list[tuple[int, int, int]] = []
    n_own = 0
    for _, text in groupby(words, key=texts[rule]):
        for before, part in contexts.pieces(text):
            parts.append((len(rows), len(rows) + len(before) + len(part), len(before)))
            rows += [*before, *part]
            n_own += len(part)
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


def _write_index(n_words: str, folder: Path) -> None:
    (folder / "n_words.json").write_text(n_words)
