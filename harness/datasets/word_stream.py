"""A corpus as a stream of checked words, with their passages, ids and sentences: of a user's file or of a data set."""

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
    """A row of a corpus."""

    passage: str
    sentence: str
    word_id: str
    word: str


def name_of(source: str) -> str:
    """What a corpus is called in tables."""
    if source in datasets.DATASETS:
        return source
    path = Path(source.removeprefix(LOCAL))
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSED else path.stem


@dataclass(frozen=True)
class WordStream:
    """A corpus that can be gone through.

    name, version: as in `Corpus`. parts: makes an iterator of tables. notes: what was unusual. joiner: between words.
    options: what the user states.
    """

    name: str
    version: str
    parts: Callable[[], Iterator[DelimitedTable]]
    notes: tuple[str, ...]
    joiner: str
    options: TextOptions

    def log_notes(self) -> None:
        """Tell the user what was unusual."""
        for note in self.notes:
            logger.warning("%s", note)

    def words(self) -> Iterator[Word]:
        """The words, with the sentences that punctuation tells where they are not given."""
        rows, again = tee(_rows(self.parts(), self.name, self.options))
        pairs = ((row.passage, row.word) for row in again)
        begins = sentences.starts_of(pairs, self.joiner, self.options.language)
        sentence = 0
        for row, is_first in zip(rows, begins, strict=True):
            sentence += is_first
            yield row if row.sentence is not None else row._replace(sentence=str(sentence))

    def differs_from_before(self) -> list[Any]:
        """What the words owe to ways of reading that the first versions lacked; part of the key, so that it is another.

        Goes through the whole corpus, since Unicode's rules give most texts the sentences that the ASCII rule gave.
        """
        found: list[Any] = [note.partition(": ")[2] for note in self.notes]
        found += [{"joiner": self.joiner}] if self.joiner != " " else []
        found += [{"encoding": self.options.encoding}] if self.options.encoding else []
        found += [] if frequencies.is_english(self.options.language) else [{"language": self.options.language}]
        is_given = any("sentence" in part.frame for part in islice(self.parts(), 1))
        changed = [
            before for before, word in pairwise(self.words())
            if not is_given and before.passage == word.passage
            and sentences.ended_by_ascii(before.word, word.word) != (before.sentence != word.sentence)
        ]  # fmt: skip
        return [*found, "sentences by UAX 29"] if changed else found


def opened(source: str, data_root: str | None, options: TextOptions) -> WordStream:
    """The words of a file or of a data set; errors of `corpora.put`, but for those of single words."""
    if options.language:
        options = TextOptions(options.encoding, options.joiner, frequencies.require_language(options.language))
    path = Path(source.removeprefix(LOCAL))
    joiner = " " if options.joiner is None else options.joiner
    if path.is_file():
        version = checksum_of(path, "sha256").removeprefix("sha256:")[:16]
        found = word_files.opened(path, options)
        return WordStream(name_of(source), version, found.parts, found.notes, joiner, options)
    if source.startswith(LOCAL) or source not in datasets.DATASETS:
        raise FileNotFoundError(
            f"{source} is no file and no data set; give a CSV with a column `word`, a plain text, or a name of "
            "`harness datasets`."
        )
    dataset = datasets.load(source, data_root or ".")
    return WordStream(dataset.name, dataset.version, lambda: _of_stimuli(dataset), (), joiner, options)


def _of_stimuli(dataset: Any) -> Iterator[DelimitedTable]:
    import pandas as pd

    stimuli = dataset.stimuli
    columns = {"passage": stimuli.passages, "word_id": stimuli.ids, "word": stimuli.texts}
    columns |= {"sentence": stimuli.sentences} if stimuli.sentences else {}
    yield DelimitedTable(dataset.name, pd.DataFrame(columns, dtype=object), range(1, len(stimuli) + 1), "row")


def _rows(parts: Iterator[DelimitedTable], name: str, options: TextOptions) -> Iterator[Any]:
    """The words of all tables, checked; the sentence is None where it is not given."""
    n_words, last, file = 0, "", ""
    seen: set[str] = set()
    hashes: list[Any] = []
    for part in parts:
        file = part.file
        columns = _columns(part, n_words, options)
        if "word_id" in part.frame:
            hashes.append(_hashes(columns["word_id"]))
        for place, row in enumerate(zip(*(columns[name] for name in COLUMNS), strict=True)):
            if row[0] != last or not n_words:
                if row[0] in seen:
                    at = part.where(place, "passage")
                    raise ValueError(f"{at}: passage {row[0]!r} is not contiguous; sort the words by passage.")
                seen.add(row[0])
            last, n_words = row[0], n_words + 1
            yield Word(*row)
    if not n_words:
        raise ValueError(f"{file or name} has no words.")
    if hashes and len(np.unique(every := np.concatenate(hashes))) < len(every):
        values, counts = np.unique(every, return_counts=True)
        row_number = int(np.flatnonzero(every == values[counts > 1][0])[1])
        raise ValueError(f"{file}: the word_id of row {row_number + 1} stands more than once; ids must be unique.")


def _columns(part: DelimitedTable, n_before: int, options: TextOptions) -> dict[str, Any]:
    """The columns of words, complete."""
    words = part.texts("word")
    _require_words(part, words, n_before)
    if options.joiner is None and not n_before and scripts.has_no_spaces(words):
        raise ValueError(
            f"{part.where(0, 'word')}: {words[0]!r} is in a script without spaces between words, but words would be "
            'joined by spaces; state what separates them: --joiner "" for nothing, --joiner " " for a space.'
        )
    numbers = [str(number) for number in range(n_before + 1, n_before + len(words) + 1)]
    absent: dict[str, Any] = {"passage": ["text"] * len(words), "sentence": [None] * len(words), "word_id": numbers}
    for name in OPTIONAL:
        if name in part.frame:
            absent[name] = part.texts(name)
            if "" in absent[name]:
                at = part.where(absent[name].index(""), name)
                raise ValueError(f"{at} is empty; fill it, or leave the column out.")
    return absent | {"word": words}


def _hashes(ids: list[str]) -> Any:
    import pandas as pd

    return pd.util.hash_array(np.array(ids, dtype=object), categorize=False)


def _require_words(part: DelimitedTable, words: list[str], n_before: int) -> None:
    for row, word in enumerate(words):
        if not word or word != word.strip() or "\n" in word or "\t" in word or word in SPREADSHEET_ERRORS:
            raise ValueError(
                f"{part.where(row, 'word')}: word {n_before + row + 1} ({word!r}) {_fault_of(word)}. "
                "Words are joined by spaces."
            )


def _fault_of(word: str) -> str:
    if not word.strip():
        return "has no text; leave it out"
    if any(sign in word for sign in "\n\t"):
        return "holds a line break or a tab; give each word a row"
    if word in SPREADSHEET_ERRORS:
        return "is an error of a spreadsheet; write the word that stood there"
    return "has spaces around it; strip it"
