"""Streams the checked words of a user's file or of a data set, with passages, sentences and ids."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise, tee
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness import datasets
from harness.datasets.entry import checksum_of
from harness.delimited.table import SPREADSHEET_ERRORS, DelimitedTable
from harness.text import frequencies, scripts, sentences, word_files
from harness.text.word_files import COMPRESSED, OPTIONAL, TextOptions

logger = logging.getLogger(__name__)

LOCAL = "local:"
COLUMNS = ("passage", "sentence", "word_id", "word")


class Word(NamedTuple):
    """One word of a corpus."""

    passage: str
    sentence: str
    word_id: str
    word: str


def name_of(source: str) -> str:
    """Name of a corpus in result tables."""
    if datasets.is_known(source):
        return source
    path = Path(source.removeprefix(LOCAL))
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSED else path.stem


@dataclass(frozen=True)
class WordStream:
    """A corpus that can be iterated any number of times.

    Attributes:
        name, version: as in `Corpus`.
        parts: returns an iterator over tables of words.
        notes: what was unusual about the file.
        joiner: separator between words in the text given to a model.
        options: the user's options.
    """

    name: str
    version: str
    parts: Callable[[], Iterator[DelimitedTable]]
    notes: tuple[str, ...]
    joiner: str
    options: TextOptions

    def log_notes(self) -> None:
        """Log what was unusual about the file."""
        for note in self.notes:
            logger.warning("%s", note)

    def words(self) -> Iterator[Word]:
        """Yield the words; sentences that are not given are detected by punctuation."""
        rows, same_rows = tee(_rows(self.parts(), self.name, self.options))
        pairs = ((row.passage, row.word) for row in same_rows)
        starts = sentences.starts_of(pairs, self.joiner, self.options.language)
        sentence = 0
        for row, is_start in zip(rows, starts, strict=True):
            sentence += is_start
            yield row if row.sentence is not None else row._replace(sentence=str(sentence))

    def differs_from_before(self) -> list[Any]:
        """Everything about this corpus that the first version of the program would have read differently.

        It is part of the key of the stored corpus, so that results of the first version are reused only if the words
        are the same. Iterates over the whole corpus, since UAX 29 gives most texts the same sentences as the former
        ASCII rule.
        """
        differences: list[Any] = [note.partition(": ")[2] for note in self.notes]
        differences += [{"joiner": self.joiner}] if self.joiner != " " else []
        differences += [{"encoding": self.options.encoding}] if self.options.encoding else []
        differences += [] if frequencies.is_english(self.options.language) else [{"language": self.options.language}]
        has_sentences = any("sentence" in part.frame for part in islice(self.parts(), 1))
        changed = [
            previous for previous, word in pairwise(self.words())
            if not has_sentences and previous.passage == word.passage
            and sentences.ended_by_ascii(previous.word, word.word) != (previous.sentence != word.sentence)
        ]  # fmt: skip
        return [*differences, "sentences by UAX 29"] if changed else differences


def open_words(source: str, data_root: str | None, options: TextOptions) -> WordStream:
    """Open a file or a data set as a stream of words.

    Raises as `corpora.put`; errors in single words are raised during iteration.
    """
    if options.language:
        options = TextOptions(options.encoding, options.joiner, frequencies.require_language(options.language))
    path = Path(source.removeprefix(LOCAL))
    joiner = " " if options.joiner is None else options.joiner
    if path.is_file():
        version = checksum_of(path, "sha256").removeprefix("sha256:")[:16]
        file = word_files.open_word_file(path, options)
        return WordStream(name_of(source), version, file.parts, file.notes, joiner, options)
    if source.startswith(LOCAL) or not datasets.is_known(source):
        raise FileNotFoundError(
            f"{source} is neither a file nor a data set; give a CSV with a column `word`, a plain text, or a name from "
            "`harness datasets`."
        )
    dataset = datasets.load(source, data_root or ".")
    return WordStream(dataset.name, dataset.version, lambda: _stimuli_table(dataset), (), joiner, options)


def _stimuli_table(dataset: Any) -> Iterator[DelimitedTable]:
    """The stimuli of a data set as a single table of words."""
    import pandas as pd

    stimuli = dataset.stimuli
    columns = {"passage": stimuli.passages, "word_id": stimuli.ids, "word": stimuli.texts}
    columns |= {"sentence": stimuli.sentences} if stimuli.sentences else {}
    yield DelimitedTable(dataset.name, pd.DataFrame(columns, dtype=object), range(1, len(stimuli) + 1), "row")


def _rows(parts: Iterator[DelimitedTable], name: str, options: TextOptions) -> Iterator[Any]:
    """Yield the checked words of all tables; the sentence is None if it is not given."""
    n_words, passage, file = 0, None, ""
    passages: set[str] = set()
    hashes: list[Any] = []
    for part in parts:
        file = part.file
        columns = _columns(part, n_words, options)
        if "word_id" in part.frame:
            hashes.append(_hashes(columns["word_id"]))
        for row_number, word in enumerate(map(Word, *(columns[name] for name in COLUMNS))):
            if word.passage != passage and word.passage in passages:
                at = part.where(row_number, "passage")
                raise ValueError(f"{at}: passage {word.passage!r} is not contiguous; sort the words by passage.")
            passages.add(word.passage)
            passage, n_words = word.passage, n_words + 1
            yield word
    if not n_words:
        raise ValueError(f"{file or name} has no words.")
    if hashes and len(np.unique(all_hashes := np.concatenate(hashes))) < len(all_hashes):
        values, counts = np.unique(all_hashes, return_counts=True)
        doubled = int(np.flatnonzero(all_hashes == values[counts > 1][0])[1])
        raise ValueError(f"{file}: the word_id of row {doubled + 1} appears more than once; ids must be unique.")


def _columns(part: DelimitedTable, n_before: int, options: TextOptions) -> dict[str, Any]:
    """All columns of a table of words, with defaults for those it lacks."""
    words = part.texts("word")
    _require_words(part, words, n_before)
    if options.joiner is None and not n_before and scripts.is_unspaced_script(words):
        raise ValueError(
            f"{part.where(0, 'word')}: {words[0]!r} is in a script without spaces between words, but words would be "
            'joined by spaces; state what separates them: --joiner "" for nothing, --joiner " " for a space.'
        )
    numbers = [str(number) for number in range(n_before + 1, n_before + len(words) + 1)]
    columns: dict[str, Any] = {"passage": ["text"] * len(words), "sentence": [None] * len(words), "word_id": numbers}
    for name in OPTIONAL:
        if name in part.frame:
            columns[name] = part.texts(name)
            if "" in columns[name]:
                at = part.where(columns[name].index(""), name)
                raise ValueError(f"{at} is empty; fill it, or leave the column out.")
    return columns | {"word": words}


def _hashes(ids: list[str]) -> Any:
    """(row,) uint64 hashes, so that duplicate ids of a long corpus are found with little memory."""
    import pandas as pd

    return pd.util.hash_array(np.array(ids, dtype=object), categorize=False)


def _require_words(part: DelimitedTable, words: list[str], n_before: int) -> None:
    """Raise if a cell is not a single word."""
    for row, word in enumerate(words):
        if not word or word != word.strip() or "\n" in word or "\t" in word or word in SPREADSHEET_ERRORS:
            raise ValueError(
                f"{part.where(row, 'word')}: word {n_before + row + 1} ({word!r}) {_fault_of(word)}. "
                "Words are joined by spaces."
            )


def _fault_of(word: str) -> str:
    """What is wrong with a word, and what to do."""
    if not word.strip():
        return "has no text; leave it out"
    if "\n" in word or "\t" in word:
        return "contains a line break or a tab; give each word its own row"
    if word in SPREADSHEET_ERRORS:
        return "is a spreadsheet error; write the original word"
    return "has spaces around it; strip it"
