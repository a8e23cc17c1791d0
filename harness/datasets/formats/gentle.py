"""Reads `align.json` of the forced aligner Gentle: the words of a transcript and when they were spoken.

A word has its characters in the transcript (`startOffset`, `endOffset`), `case`, and, if that is "success", `start` and
`end` in seconds of the audio file. Words that the aligner does not know (`alignedWord` "<unk>") have times too; those
that it did not find ("not-found-in-audio") have none. What it heard beyond the transcript is omitted.

Source: github.com/lowerquality/gentle.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_BEFORE_WORD = re.compile(r"\S*\Z")  # what belongs to a word before its first letter, such as an opening quotation mark


class SpokenWord(NamedTuple):
    """A word of the transcript with its punctuation and the space after it; times in seconds, NaN if not found.

    The texts of all words, joined without a separator, are the transcript, with single spaces.
    """

    text: str
    start_s: float
    end_s: float


def read(path: Path) -> tuple[SpokenWord, ...]:
    """Read all words of a transcript, in order.

    Raises:
        ValueError: if the file is damaged or not of this form, or has no word with a time; names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        words = _words(content["transcript"], content["words"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as Gentle's alignment ({error!r}); fetch it again.") from error
    if not any(np.isfinite(word.start_s) for word in words):
        raise ValueError(f"{path} has no word with a time; fetch it again.")
    return words


def _words(transcript: str, records: list[dict[str, Any]]) -> tuple[SpokenWord, ...]:
    """The words; errors are about the form of the records."""
    records = [record for record in records if record["case"] != "not-found-in-transcript"]
    spans = [(int(record["startOffset"]), int(record["endOffset"])) for record in records]
    edges, end = [], 0
    for record, (start, stop) in zip(records, spans, strict=True):
        if start < end or transcript[start:stop] != record["word"]:
            raise ValueError(f"word {record['word']!r} is not at character {start} of the transcript")
        gap = transcript[end:start]
        opening = _BEFORE_WORD.search(gap)
        assert opening  # noqa: S101 - it may be empty, and so always matches
        # Without a space before it, a mark belongs to the word before, as a hyphen does.
        edges.append(end + opening.start() if not end or opening.start() else start)
        end = stop
    texts = [transcript[a:b] for a, b in zip(edges, [*edges[1:], len(transcript)], strict=True)]
    times = [
        (float(record["start"]), float(record["end"])) if record["case"] == "success" else (np.nan, np.nan)
        for record in records
    ]
    return tuple(SpokenWord(re.sub(r"\s+", " ", text), *time) for text, time in zip(texts, times, strict=True))
