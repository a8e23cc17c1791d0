"""A corpus -> shards in the store, each a table of words that can be read on its own.

A corpus is a file of one's own or the words of a data set. It is gone through once, a few thousand words at a time, so
that its length does not matter; whoever reads it, on any machine, takes a shard at a time. A shard holds whole
contexts: what comes before a word that is not its own is written beside it (`contexts.pieces`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness import contexts, datasets
from harness.datasets.entry import checksum_of
from harness.datasets.futrell2018 import ends_sentence
from harness.records import Context
from harness.spec import content_hash
from harness.store import Store

if TYPE_CHECKING:
    import pandas as pd

CORPORA_VERSION = 1
# Words of a shard, about; a worker reads one at a time, and no more than one is lost with it.
SHARD_WORDS = 5_000
LOCAL = "local:"
_CHUNK = 50_000
_COLUMNS = ("passage", "sentence", "word_id", "word")


class Word(NamedTuple):
    """A row of a corpus."""

    passage: str
    sentence: str
    word_id: str
    word: str


@dataclass(frozen=True)
class Corpus:
    """A corpus that is in the store.

    name, version: of the file or data set; 16 hex digits of its content. key, shards: of its index and of each shard,
    kind "corpora". n_words: of each shard.
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
    """

    words: tuple[Word, ...]
    parts: tuple[tuple[int, int, int], ...]

    def contexts(self) -> list[Context]:
        """Their texts."""
        made = []
        for first, end, n_before in self.parts:
            rows = self.words[first:end]
            made.append(contexts.join([row.word for row in rows], [row.word_id for row in rows[n_before:]], n_before))
        return made

    def own(self) -> list[Word]:
        """The words that are read for themselves, in the order of the contexts."""
        return [row for first, end, n_before in self.parts for row in self.words[first + n_before : end]]


def put(source: str, rule: str, store: Store, data_root: str | None = None) -> Corpus:
    """Cut a corpus into shards, unless the store holds them.

    Args:
        source: a file (CSV, TSV or Parquet with a column `word`, and `passage`, `sentence`, `word_id` if there are
            such; or plain text), with or without "local:" before it; or the name of a data set.
        rule: "none", "sentence", "passage" or "corpus", as of `contexts.build`.
        store: where to.
        data_root: where data sets lie.

    Raises:
        FileNotFoundError: if there is neither such a file nor such a data set.
        ValueError: if there is no column `word`, no word, a word without text or with spaces around it, an id that
            stands twice, a passage that is not contiguous, or the file is not UTF-8.
    """
    name, version, chunks = _opened(source, data_root)
    key = content_hash([CORPORA_VERSION, version, rule, contexts.PIECE, contexts.LEAD, SHARD_WORDS])[:24]
    if not store.has("corpora", key):
        n_words = []
        for number, shard in enumerate(_shards(_checked(chunks, name), rule)):
            facts = {"schema": CORPORA_VERSION, "dataset": name, "context": rule, "n_words": len(shard.own())}
            store.put("corpora", f"{key}-{number:06d}", partial(_write, shard), facts)
            n_words.append(len(shard.own()))
        index = json.dumps(n_words)
        facts = {"schema": CORPORA_VERSION, "dataset": name, "context": rule, "n_words": sum(n_words)}
        store.put("corpora", key, partial(_write_index, index), facts)
    with store.open("corpora", key) as folder:
        n_words = json.loads((folder / "n_words.json").read_text())
    return Corpus(name, version, key, tuple(f"{key}-{number:06d}" for number in range(len(n_words))), tuple(n_words))


def read(key: str, store: Store) -> Shard:
    """A shard of the store."""
    with store.open("corpora", key) as folder:
        rows = pq.read_table(folder / "words.parquet").to_pydict()
        parts = json.loads((folder / "parts.json").read_text())
    words = tuple(map(Word, *(rows[name] for name in _COLUMNS)))
    return Shard(words, tuple(tuple(part) for part in parts))


def shards_of(source: str, rule: str, data_root: str | None = None) -> Iterator[Shard]:
    """The shards of a corpus that is not put into a store; errors of `put`."""
    name, _, chunks = _opened(source, data_root)
    return _shards(_checked(chunks, name), rule)


def name_of(source: str) -> str:
    """What a corpus is called in tables."""
    return source if source in datasets.DATASETS else Path(source.removeprefix(LOCAL)).stem


# --- words -> shards --------------------------------------------------------------------------------------------------


def _shards(words: Iterator[Word], rule: str) -> Iterator[Shard]:
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
                yield Shard(tuple(rows), tuple(parts))
                rows, parts, n_own = [], [], 0
    if rows:
        yield Shard(tuple(rows), tuple(parts))


def _write(shard: Shard, folder: Path) -> None:
    columns = dict(zip(_COLUMNS, map(list, zip(*shard.words, strict=True)), strict=True))
    schema = pa.schema([(name, pa.string()) for name in _COLUMNS])
    pq.write_table(pa.table(columns, schema=schema), folder / "words.parquet")
    (folder / "parts.json").write_text(json.dumps(shard.parts))


def _write_index(n_words: str, folder: Path) -> None:
    (folder / "n_words.json").write_text(n_words)


def _checked(chunks: Iterable[pd.DataFrame], name: str) -> Iterator[Word]:
    """The words, with the sentences that punctuation tells where they are not given."""
    import pandas as pd

    n_words, last, sentence = 0, Word("", "", "", ""), 0
    seen: set[str] = set()
    hashes: list[Any] = []
    for frame in chunks:
        if "word" not in frame:
            raise ValueError(f"{name} has the columns {', '.join(frame)}; one must be called `word`.")
        _require_texts(frame["word"], n_words, name)
        numbers = pd.Series(range(n_words + 1, n_words + len(frame) + 1), index=frame.index).astype(str)
        ids = frame.get("word_id", numbers)
        if "word_id" in frame:
            hashes.append(pd.util.hash_array(ids.to_numpy(dtype=object), categorize=False))
        passages = frame.get("passage", pd.Series("text", index=frame.index))
        given = frame["sentence"] if "sentence" in frame else (None,) * len(frame)
        for passage, its, word_id, word in zip(passages, given, ids, frame["word"], strict=True):
            if passage != last.passage or not n_words:
                if passage in seen:
                    raise ValueError(f"{name}: passage {passage!r} is not contiguous; sort the words by passage.")
                seen.add(passage)
                sentence += 1
            elif ends_sentence(last.word, word):
                sentence += 1
            last = Word(passage, str(sentence) if its is None else its, word_id, word)
            n_words += 1
            yield last
    if not n_words:
        raise ValueError(f"{name} has no words.")
    if hashes and len(np.unique(every := np.concatenate(hashes))) < len(every):
        values, counts = np.unique(every, return_counts=True)
        row = int(np.flatnonzero(every == values[counts > 1][0])[1])
        raise ValueError(f"{name}: the word_id of row {row + 1} stands more than once; ids must be unique.")


def _require_texts(words: pd.Series, n_before: int, name: str) -> None:
    stripped = words.str.strip()
    for bad, what in (
        (stripped == "", "has no text; leave it out"), (stripped != words, "has spaces around it; strip it"),
    ):  # fmt: skip
        if bad.any():
            row = int(bad.to_numpy().argmax())
            raise ValueError(
                f"{name}: word {n_before + row + 1} ({words.iloc[row]!r}) {what}. Words are joined by spaces."
            )


# --- files ------------------------------------------------------------------------------------------------------------


def _opened(source: str, data_root: str | None) -> tuple[str, str, Iterator[pd.DataFrame]]:
    """Name, version, and tables of some thousand words each, every column text."""
    path = Path(source.removeprefix(LOCAL))
    if path.is_file():
        return name_of(source), checksum_of(path, "sha256").removeprefix("sha256:")[:16], _tables(path)
    if source.startswith(LOCAL) or source not in datasets.DATASETS:
        raise FileNotFoundError(
            f"{source} is no file and no data set; give a CSV with a column `word`, a plain text, or a name of "
            "`harness datasets`."
        )
    dataset = datasets.load(source, data_root or ".")
    return dataset.name, dataset.version, _of_stimuli(dataset.stimuli)


def _of_stimuli(stimuli: Any) -> Iterator[pd.DataFrame]:
    import pandas as pd

    columns = {"passage": stimuli.passages, "word_id": stimuli.ids, "word": stimuli.texts}
    yield pd.DataFrame(columns | ({"sentence": stimuli.sentences} if stimuli.sentences else {}))


def _tables(path: Path) -> Iterator[pd.DataFrame]:
    import pandas as pd

    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            for batch in pq.ParquetFile(path).iter_batches(_CHUNK):
                yield batch.to_pandas().astype(str)
        elif kind in {".csv", ".tsv"}:
            separator = "\t" if kind == ".tsv" else ","
            yield from pd.read_csv(
                path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig", chunksize=_CHUNK
            )
        else:
            yield from _plain(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); convert it.") from error
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty.") from None
    except pd.errors.ParserError as error:
        raise ValueError(f"{path} is no table: {str(error).strip()}") from None


def _plain(path: Path) -> Iterator[pd.DataFrame]:
    """What stands between spaces, whatever their number."""
    import pandas as pd

    rest = ""
    with path.open(encoding="utf-8-sig") as stream:
        while block := stream.read(2**18):
            words = (rest + block).split()
            rest = "" if block[-1].isspace() or not words else words.pop()
            yield pd.DataFrame({"word": words}, dtype=str)
    yield pd.DataFrame({"word": [rest] if rest else []}, dtype=str)
