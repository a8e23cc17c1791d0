"""Static word vectors from a file, for the words of the stimuli alone.

A vector that is the same wherever its word stands is what a language model adds context to; on Pereira2018 such vectors
explain much of a model's score (METHODS section 6). Files are GloVe text (`word v1 v2 ...`) or word2vec and fastText
text (the same under a line `n dim`), UTF-8, plain or gzipped, fields set apart by spaces or tabs; they are read line by
line, since they hold gigabytes.
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
    wanted = _spelt(words)
    exact: dict[str, Floats] = {}
    alike: dict[str, Floats] = {}
    with _opened(path) as stream:
        shape, n_lines = _shape(path, stream), 0
        for number, line in _lines(path, stream, shape):
            n_lines += 1
            surplus = line.count(b" ") - shape.dimension
            if surplus < 0 or (surplus and all(map(_is_number, line.split(b" ")[1 : 1 + surplus]))):
                wrong = f"{shape.dimension + surplus} numbers instead of {shape.dimension}"
                raise ValueError(f"{path}, line {number}: {wrong}; the file is damaged, get it again.")
            word = line[: line.index(b" ")]
            if not surplus and (asked := wanted.get(word)):
                _require_utf8(path, number, word)
                found = exact if asked.encode() == word else alike
                if asked not in found:
                    found[asked] = _numbers(path, number, line)
    if n_lines < shape.n_stated:
        raise ValueError(f"{path}: {n_lines} vectors, but its header says {shape.n_stated}; get the file again.")
    return alike | exact


def _spelt(words: Collection[str]) -> dict[bytes, str]:
    """The bytes that a word may be in a file: in either Unicode form, or in Windows-1252, which is then an error."""
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
        raise ValueError(f"{path}, line {number}: {shown!r} is in Windows-1252; save the file as UTF-8.") from None


class _Shape(NamedTuple):
    """What the first lines tell.

    dimension: numbers of a vector. n_stated: vectors, 0 if not stated. first: the line of the first vector. is_single:
    whether one space stands between fields throughout, as in most files, which is quickest.
    """

    dimension: int
    n_stated: int
    first: int
    is_single: bool


def _shape(path: str, stream: BufferedReader | gzip.GzipFile) -> _Shape:
    """Look at the first lines and go back; two whole numbers are a header."""
    line = stream.readline()
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path} is UTF-16; save it as UTF-8.")
    following = stream.readline()
    stream.seek(0)
    fields = line.removeprefix(codecs.BOM_UTF8).split()
    if len(fields) < 2:
        raise ValueError(f"{path}: the first line holds no vector; give GloVe, word2vec or fastText text.")
    is_header = len(fields) == 2 and all(field.isdigit() for field in fields)
    sample = (following if is_header else line).removeprefix(codecs.BOM_UTF8).rstrip()
    is_single = b"\t" not in sample and b"  " not in sample and not sample.startswith(b" ")
    if is_header:
        return _Shape(int(fields[1]), int(fields[0]), 2, is_single)
    return _Shape(len(fields) - 1, 0, 1, is_single)


def _lines(path: str, stream: BufferedReader | gzip.GzipFile, shape: _Shape) -> Iterator[tuple[int, bytes]]:
    """The lines that hold vectors, with their numbers from 1, their fields set apart by one space."""
    try:
        for number, line in enumerate(stream, 1):
            if number >= shape.first:
                bare = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                yield number, bare.rstrip() if shape.is_single else b" ".join(bare.split())
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
