"""The scans of a laboratory's recording: in which order, in which blocks, and on the clock of its words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from harness.datasets.own.files import Table, nearest
from harness.delimited.identifiers import join
from harness.records import Floats, Responses, Stimuli

# Beyond which a clock is in milliseconds: between scans, and by how much words go on longer than scans.
_MOST_TR_S, _MOST_TIMES_LONGER = 60.0, 100.0


class Rows(NamedTuple):
    """The rows of the responses, in order of time, and the table that names them."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    blocks: tuple[str, ...]
    times_s: Floats | None
    file: str


def scan_rows(scans: Table, stimuli: Stimuli, file: str, notes: list[str]) -> Rows:
    """The scans, block after block in the order of the passages, by time within each."""
    ids, times = scans.ids(), scans.numbers("time_s", complete=True)
    passages = tuple(dict.fromkeys(stimuli.passages))
    blocks = (passages[0] if len(passages) == 1 else "all",) * len(ids)
    if "block" in scans.columns:
        named = scans.texts("block")
        same = join(list(dict.fromkeys(named)), passages, scans.file, f"the passages of {file}")
        odd = next((row for row, block in enumerate(named) if block not in same.same), None)
        if odd is not None:
            raise ValueError(
                f"{scans.file}: block {named[odd]!r} of scan {ids[odd]!r} is no passage of {file}"
                f"{nearest(named[odd], passages)}."
            )
        notes += [same.note] if same.note else []
        blocks = tuple(same.same[block] for block in named)
    place = {passage: k for k, passage in enumerate(passages)}
    order = sorted(range(len(ids)), key=lambda row: (place.get(blocks[row], 0), times[row]))
    for before, row in pairwise(order):
        if blocks[before] == blocks[row] and times[before] == times[row]:
            raise ValueError(f"{scans.file}: scans {ids[before]!r} and {ids[row]!r} have one time_s, {times[row]:g}.")
    if len(set(blocks)) == len(ids):
        raise ValueError(f"{scans.file}: no block has two scans, so the time from scan to scan is not known.")
    if "group" in scans.columns:
        groups: Sequence[str] = scans.texts("group")
    else:
        groups = blocks if len(set(blocks)) > 1 else [f"minute.{int((t - times.min()) // 60) + 1}" for t in times]
    ids, groups, blocks = (tuple(column[row] for row in order) for column in (ids, groups, blocks))
    return Rows(ids, groups, blocks, times[order], scans.file)


def require_words_in_scans(stimuli: Stimuli, responses: Responses, file: str) -> None:
    """Raise where the clocks of words and scans cannot be one: no word falls between a block's scans, or a unit is off.

    Scans that are more than a minute apart, or words that go on a hundred times as long as the scans, are in
    milliseconds, though the first may fall into the other's range.
    """
    assert stimuli.onsets_s is not None  # noqa: S101 - read with the scans
    assert responses.times_s is not None  # noqa: S101 - rows are scans
    blocks, passages = np.array(responses.row_blocks), np.array(stimuli.passages)
    for block in dict.fromkeys(responses.row_blocks):
        times = responses.times_s[blocks == block]
        onsets = stimuli.onsets_s[passages == block] if block in stimuli.passages else stimuli.onsets_s
        tr = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        falls = ((onsets > times.min() - tr) & (onsets <= times.max() + tr)).any()
        in_ms = _in_milliseconds(onsets, times, tr)
        if in_ms or not falls:
            what = "words and scans do not fit" if falls else "no word falls into any scan"
            raise ValueError(
                f"{file}: {what} in block {block!r}: "
                f"scans are at {times.min():g} to {times.max():g} s, words at {onsets.min():g} to "
                f"{onsets.max():g} s; {in_ms or 'both must be seconds on one clock.'}"
            )


def _in_milliseconds(onsets: Floats, times: Floats, tr: float) -> str:
    """Which of the clocks is in milliseconds, as a question; "" where neither is."""
    if tr > _MOST_TR_S:
        return "is time_s in milliseconds? Write seconds."
    if np.ptp(onsets) > _MOST_TIMES_LONGER * max(float(np.ptp(times)), tr, 1.0):
        return "are the onsets in milliseconds? Write seconds."
    return ""
