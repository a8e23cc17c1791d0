"""Reads TextGrid files of Praat: times of words, phonemes and silences.

In Praat's text formats, long and short, only quoted strings, <exists> and numbers that stand by themselves carry
content; names, brackets and equals signs are decoration. The same tokens are therefore read from both.

Source: Praat manual, "TextGrid file formats".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_TOKEN = re.compile(r'"((?:[^"]|"")*)"|(?<!\S)(<exists>|[-+]?\d[\d.eE+-]*)(?!\S)')


class Interval(NamedTuple):
    """A labelled stretch of time: start and end in seconds (equal for a point), and its label without outer spaces."""

    start_s: float
    end_s: float
    label: str


class Tier(NamedTuple):
    """A tier: its name, and its intervals or points in order of time."""

    name: str
    intervals: tuple[Interval, ...]


def read(path: Path) -> tuple[Tier, ...]:
    """Read all tiers of a file in UTF-8 or UTF-16; ValueError names the file if it is no complete TextGrid."""
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return parse(content.decode(encoding))
    except ValueError as error:  # of `parse`, or of the encoding
        raise ValueError(f"{path.name} cannot be read as a TextGrid ({error}); fetch the file again.") from error


def parse(text: str) -> tuple[Tier, ...]:
    """Read all tiers of a text in the long or short format; ValueError if it is cut off or in another format."""
    tokens = iter(_TOKEN.findall(text))
    try:
        kinds = _string(tokens), _string(tokens)
        if kinds != ("ooTextFile", "TextGrid"):
            raise ValueError(f"it begins with {kinds}, wanted ('ooTextFile', 'TextGrid')")
        _, _, exists = _value(tokens), _value(tokens), _value(tokens)
        n_tiers = int(_value(tokens)) if exists == "<exists>" else 0
        return tuple([_tier(tokens) for _ in range(n_tiers)])  # StopIteration must not end a generator
    except StopIteration:
        raise ValueError("it ends before all of its intervals") from None


def _tier(tokens: Iterator[tuple[str, str]]) -> Tier:
    kind, name = _string(tokens), _string(tokens)
    if kind not in ("IntervalTier", "TextTier"):
        raise ValueError(f"tier {name!r} has the class {kind!r}, wanted 'IntervalTier' or 'TextTier'")
    _, _, n = _value(tokens), _value(tokens), int(_value(tokens))
    intervals = []
    for _ in range(n):
        start = float(_value(tokens))
        end = float(_value(tokens)) if kind == "IntervalTier" else start
        intervals.append(Interval(start, end, _string(tokens).strip()))
    return Tier(name, tuple(intervals))


def _string(tokens: Iterator[tuple[str, str]]) -> str:
    text, value = next(tokens)
    if value:
        raise ValueError(f"{value} where a text in quotation marks was expected")
    return text.replace('""', '"')


def _value(tokens: Iterator[tuple[str, str]]) -> str:
    text, value = next(tokens)
    if not value:
        raise ValueError(f"{text!r} where a number was expected")
    return value
