"""Static word vectors from a file, loaded for the words of the stimuli only.

Static vectors are the baseline without context; on Pereira2018 they explain much of a model's score
(harness/scoring/README.md#controls). Files are GloVe text (`word v1 v2 ...`), or word2vec or fastText text (the same
after a line `n dim`), in UTF-8, plain or gzipped, with fields separated by spaces or tabs. They are read line by line,
since they have gigabytes.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import logging
import math
import re
import unicodedata
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
    """The word without outer punctuation: "snow." -> "snow", "don't" unchanged; "" if nothing else is left."""
    return _OUTER.sub("", word)


def embed(texts: Sequence[str], path: str) -> Floats:
    """Mean vector of the known words of each text.

    A word is looked up as shown, then without outer punctuation, then in lower case, since files differ in spelling.

    Args:
        texts: sentences or single words.
        path: file of vectors.

    Returns:
        (text, dimension) float32; zeros for a text without known words.

    Raises:
        ValueError: if the file is damaged (naming the line), or contains none of the words.
    """
    spellings = {word: (word, bare(word), bare(word).lower()) for text in texts for word in text.split()}
    vectors = read(path, {spelling for forms in spellings.values() for spelling in forms})
    known = {word: vectors[form] for word, forms in spellings.items() for form in reversed(forms) if form in vectors}
    tokens = [word for text in texts for word in text.split()]
    report_known("lexicon", path, sum(word in known for word in tokens), len(tokens))
    rows = [[known[word] for word in text.split() if word in known] for text in texts]
    zeros = np.zeros(len(next(iter(known.values()))), dtype=np.float32)
    return np.stack([np.mean(row, axis=0, dtype=np.float64) if row else zeros for row in rows]).astype(np.float32)


def report_known(stage: str, path: str, n_known: int, n_words: int) -> None:
    """Log how many words of the stimuli a file contains: a warning under half, ValueError for none."""
    if not n_known:
        raise ValueError(f"{path} has none of the {n_words} words of the stimuli; check that the languages agree.")
    level = logging.INFO if 2 * n_known >= n_words else logging.WARNING
    logger.log(level, "stage=%s file=%s words=%d known=%d", stage, path, n_words, n_known)


def read(path: str, words: Collection[str]) -> dict[str, Floats]:
    """Read the vectors of the requested words; if a word occurs twice, the first one, as in gensim.

    GloVe tokens with spaces ("at name@domain.com") are skipped. Numbers are parsed for the requested words and only
    counted for all others: a gigabyte takes about six seconds.

    Returns:
        word -> (dimension,) float32, for the words in the file.

    Raises:
        ValueError: if a line has too few or too many numbers or an invalid number (naming the line), or the file is
            empty or shorter than its header or compression states.
    """
    wanted = _spelt(words)
    exact: dict[str, Floats] = {}
    alike: dict[str, Floats] = {}
    with _opened(path) as stream:
        shape, n_lines = _shape(path, stream), 0
        for number, line in _lines(path, stream, shape):
            n_lines += 1
            surplus = line.count(b" ") - shape.dimension
            if surplus < 0 or (surplus and all(map(_is_number, line.split(b" ")[1 : 1 + surplus]))):
                counts = f"{shape.dimension + surplus} numbers instead of {shape.dimension}"
                raise ValueError(f"{path}, line {number}: {counts}; the file is damaged, download it again.")
            word = line[: line.index(b" ")]
            if not surplus and (requested := wanted.get(word)):
                _require_utf8(path, number, word)
                target = exact if requested.encode() == word else alike
                if requested not in target:
                    target[requested] = _numbers(path, number, line)
    if n_lines < shape.n_stated:
        raise ValueError(f"{path}: {n_lines} vectors, but its header states {shape.n_stated}; download the file again.")
    return alike | exact


def _spelt(words: Collection[str]) -> dict[bytes, str]:
    """Byte spellings of each word: both Unicode normal forms, and Windows-1252, which is rejected later."""
    spelt: dict[bytes, str] = {}
    for word in words:
        if not word.isascii():
            spelt |= {unicodedata.normalize(form, word).encode(): word for form in ("NFC", "NFD")}
            with contextlib.suppress(UnicodeEncodeError):
                spelt.setdefault(word.encode("cp1252"), word)
    return spelt | {word.encode(): word for word in words}


def _require_utf8(path: str, number: int, word: bytes) -> None:
    try:
        word.decode()
    except UnicodeDecodeError:
        shown = word.decode("cp1252", "replace")
        raise ValueError(f"{path}, line {number}: {shown!r} is Windows-1252; save the file as UTF-8.") from None


class _Shape(NamedTuple):
    """Format of a file, from its first lines.

    Attributes:
        dimension: length of a vector.
        n_stated: number of vectors in the header; 0 without a header.
        first: line number of the first vector.
        is_single: whether fields are separated by single spaces, as in most files, which is fastest to parse.
    """

    dimension: int
    n_stated: int
    first: int
    is_single: bool


def _shape(path: str, stream: BufferedReader | gzip.GzipFile) -> _Shape:
    """Inspect the first lines and rewind; a first line of two integers is a header."""
    line = stream.readline()
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path} is UTF-16; save it as UTF-8.")
    following = stream.readline()
    stream.seek(0)
    fields = line.removeprefix(codecs.BOM_UTF8).split()
    if len(fields) < 2:
        raise ValueError(f"{path}: the first line has no vector; wanted GloVe, word2vec or fastText text.")
    is_header = len(fields) == 2 and all(field.isdigit() for field in fields)
    sample = (following if is_header else line).removeprefix(codecs.BOM_UTF8).rstrip()
    is_single = b"\t" not in sample and b"  " not in sample and not sample.startswith(b" ")
    if is_header:
        return _Shape(int(fields[1]), int(fields[0]), 2, is_single)
    return _Shape(len(fields) - 1, 0, 1, is_single)


def _lines(path: str, stream: BufferedReader | gzip.GzipFile, shape: _Shape) -> Iterator[tuple[int, bytes]]:
    """Yield the lines with vectors, with line numbers from 1 and fields separated by single spaces."""
    try:
        for number, line in enumerate(stream, 1):
            if number >= shape.first:
                bare = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                yield number, bare.rstrip() if shape.is_single else b" ".join(bare.split())
    except EOFError as error:
        raise ValueError(f"{path} is truncated (incomplete gzip data); download the file again.") from error


def _opened(path: str) -> BufferedReader | gzip.GzipFile:
    """Open the file, decompressing it if its content (not its name) is gzip."""
    with Path(path).open("rb") as stream:
        gzipped = stream.read(2) == _GZIPPED
    return gzip.open(path) if gzipped else Path(path).open("rb")


def _numbers(path: str, number: int, line: bytes) -> Floats:
    """Parse a line to a (dimension,) float32 vector; ValueError for an invalid number."""
    fields = line.split(b" ")[1:]
    invalid = next((field for field in fields if not _is_number(field)), None)
    if invalid is not None:
        raise ValueError(f"{path}, line {number}: {invalid.decode(errors='replace')!r} is not a finite number.")
    return np.array([float(field) for field in fields], dtype=np.float32)


def _is_number(field: bytes) -> bool:
    try:
        return math.isfinite(float(field))
    except ValueError:
        return False
