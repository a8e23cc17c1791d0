"""Static word vectors from a file, for the words of the stimuli alone.

A vector that is the same wherever its word stands is what a language model adds context to; on Pereira2018 such vectors
explain much of a model's score (METHODS section 6). Files are GloVe text (`word v1 v2 ...`) or word2vec and fastText
text (the same under a line `n dim`), plain or gzipped; they are read line by line, since they hold gigabytes.
"""

from __future__ import annotations

import gzip
import logging
import math
import re
from collections.abc import Collection, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.records import Floats

logger = logging.getLogger(__name__)

_OUTER = re.compile(r"^\W+|\W+$")
_GZIPPED = b"\x1f\x8b"


def bare(word: str) -> str:
    """The word without outer punctuation: "snow." -> "snow", "don't" as it is; "" where nothing else is left."""
    return _OUTER.sub("", word)


def embed(texts: Sequence[str], path: str) -> Floats:
    """(text, dimension) float32: the mean over the known words of each text, zeros where none is known.

    A word is looked up as shown, then without outer punctuation, then in lower case: files differ in what they keep.

    Args:
        texts: sentences or single words.
        path: file of vectors.

    Raises:
        ValueError: if the file is damaged (naming the line), or knows none of the words.
    """
    spellings = {word: (word, bare(word), bare(word).lower()) for text in texts for word in text.split()}
    found = read(path, {spelling for forms in spellings.values() for spelling in forms})
    known = {word: found[form] for word, forms in spellings.items() for form in reversed(forms) if form in found}
    running = [word for text in texts for word in text.split()]
    report_known("lexicon", path, sum(word in known for word in running), len(running))
    rows = [[known[word] for word in text.split() if word in known] for text in texts]
    nothing = np.zeros(len(next(iter(known.values()))), dtype=np.float32)
    return np.stack([np.mean(row, axis=0, dtype=np.float64) if row else nothing for row in rows]).astype(np.float32)


def report_known(station: str, path: str, n_known: int, n_words: int) -> None:
    """Log how many running words of the stimuli a file knows: a warning under half, ValueError where none."""
    if not n_known:
        raise ValueError(f"{path} knows none of the {n_words} words of the stimuli; is it in their language?")
    level = logging.INFO if 2 * n_known >= n_words else logging.WARNING
    logger.log(level, "station=%s file=%s words=%d known=%d", station, path, n_words, n_known)


def read(path: str, words: Collection[str]) -> dict[str, Floats]:
    """The vectors of those words that stand in the file; of a word that stands there twice the first, as gensim does.

    A token of GloVe's may hold spaces ("at name@domain.com"); it is then no word that is asked for. Numbers are read
    for the words that are asked for and only counted for all others: a gigabyte takes about six seconds.

    Returns:
        word -> (dimension,) float32.

    Raises:
        ValueError: naming the line that has too few or too many numbers, or a field that is none; if the file is empty
            or ends before its own header or compression says.
    """
    wanted, found = {word.encode() for word in words}, {}
    with _opened(path) as stream:
        shape, n_lines = _shape(path, stream), 0
        for number, line in _lines(path, stream, shape.first):
            n_lines += 1
            surplus = line.count(b" ") - shape.dimension
            if surplus < 0 or (surplus and all(map(_is_number, line.split(b" ")[1 : 1 + surplus]))):
                wrong = f"{shape.dimension + surplus} numbers instead of {shape.dimension}"
                raise ValueError(f"{path}, line {number}: {wrong}; the file is damaged, get it again.")
            word = line[: line.index(b" ")]
            if not surplus and word in wanted and word not in found:
                found[word] = _numbers(path, number, line)
    if n_lines < shape.n_stated:
        raise ValueError(f"{path}: {n_lines} vectors, but its header says {shape.n_stated}; get the file again.")
    return {word.decode(): vector for word, vector in found.items()}


class _Shape(NamedTuple):
    """What the first line tells: the number of numbers, of vectors (0 if not stated), the line of the first vector."""

    dimension: int
    n_stated: int
    first: int


def _shape(path: str, stream: BufferedReader | gzip.GzipFile) -> _Shape:
    """Look at the first line and go back; two whole numbers are a header."""
    fields = stream.readline().split()
    stream.seek(0)
    if len(fields) < 2:
        raise ValueError(f"{path}: the first line holds no vector; give GloVe, word2vec or fastText text.")
    if len(fields) == 2 and all(field.isdigit() for field in fields):
        return _Shape(int(fields[1]), int(fields[0]), 2)
    return _Shape(len(fields) - 1, 0, 1)


def _lines(path: str, stream: BufferedReader | gzip.GzipFile, first: int) -> Iterator[tuple[int, bytes]]:
    """The lines that hold vectors, with their numbers from 1."""
    try:
        for number, line in enumerate(stream, 1):
            if number >= first:
                yield number, line.rstrip()
    except EOFError as error:
        raise ValueError(f"{path} ends before its compression does; get the file again.") from error


def _opened(path: str) -> BufferedReader | gzip.GzipFile:
    """The file's bytes, unpacked where it is gzipped, whatever its name."""
    with Path(path).open("rb") as stream:
        gzipped = stream.read(2) == _GZIPPED
    return gzip.open(path) if gzipped else Path(path).open("rb")


def _numbers(path: str, number: int, line: bytes) -> Floats:
    """(dimension,) float32."""
    fields = line.split(b" ")[1:]
    wrong = next((field for field in fields if not _is_number(field)), None)
    if wrong is not None:
        raise ValueError(f"{path}, line {number}: {wrong.decode(errors='replace')!r} is no finite number.")
    return np.array([float(field) for field in fields], dtype=np.float32)


def _is_number(field: bytes) -> bool:
    try:
        return math.isfinite(float(field))
    except ValueError:
        return False
