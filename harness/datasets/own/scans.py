"""Orders the scans of a user's recording by block and time, and checks that they share a clock with the words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from harness.datasets.own.files import Table, nearest
from harness.delimited.identifiers import join
from harness.records import Floats, Responses, Stimuli

# A clock is taken to be in milliseconds if scans are further apart than this, or words last so many times as long.
_MAX_TR_S, _MAX_DURATION_RATIO = 60.0, 100.0


class Rows(NamedTuple):
    """Rows of the responses in order of time.

    `file`: name of the table that defines them; `table_ids`: their order in it, if it is another.
    """

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    blocks: tuple[str, ...]
    times_s: Floats | None
    file: str
    table_ids: tuple[str, ...] = ()


def scan_rows(scans: Table, stimuli: Stimuli, file: str, notes: list[str]) -> Rows:
    """Order scans by block, in the order of the passages, and by time within each block.

    Args:
        scans: table of scans.
        stimuli: words.
        file: name of the table of stimuli, for messages.
        notes: list to which notes on unusual ids are appended.

    Raises:
        ValueError: if a block is not a passage, two scans of a block have the same time, or no block has two scans.
    """
    ids, times = scans.ids(), scans.numbers("time_s", complete=True)
    passages = tuple(dict.fromkeys(stimuli.passages))
    blocks = (passages[0] if len(passages) == 1 else "all",) * len(ids)
    if "block" in scans.columns:
        labels = scans.texts("block")
        match = join(list(dict.fromkeys(labels)), passages, scans.file, f"the passages of {file}")
        for unknown in (row for row, block in enumerate(labels) if block not in match.same):
            raise ValueError(
                f"{scans.file}: block {labels[unknown]!r} of scan {ids[unknown]!r} is not a passage of {file}"
                f"{nearest(labels[unknown], passages)}."
            )
        notes += [match.note] if match.note else []
        blocks = tuple(match.same[block] for block in labels)
    rank = {passage: k for k, passage in enumerate(passages)}
    order = sorted(range(len(ids)), key=lambda row: (rank.get(blocks[row], 0), times[row]))
    for before, row in pairwise(order):
        if blocks[before] == blocks[row] and times[before] == times[row]:
            raise ValueError(
                f"{scans.file}: scans {ids[before]!r} and {ids[row]!r} have the same time_s, {times[row]:g}; give each "
                "scan of a block its own time."
            )
    if len(set(blocks)) == len(ids):
        raise ValueError(f"{scans.file}: no block has two scans, so the TR is unknown; assign scans to longer blocks.")
    if "group" in scans.columns:
        groups: Sequence[str] = scans.texts("group")
    else:
        groups = blocks if len(set(blocks)) > 1 else [f"minute.{int((t - times.min()) // 60) + 1}" for t in times]
    in_order, groups, blocks = (tuple(column[row] for row in order) for column in (ids, groups, blocks))
    return Rows(in_order, groups, blocks, times[order], scans.file, ids)


def require_words_in_scans(stimuli: Stimuli, responses: Responses, file: str) -> None:
    """Raise if words and scans cannot share a clock: no word falls into a block's scans, or one is in milliseconds.

    Scans more than a minute apart, or words that last a hundred times as long as the scans, are taken to be in
    milliseconds, even if some words fall into the range of the scans.
    """
    assert stimuli.onsets_s is not None  # noqa: S101 - read with the scans
    assert responses.times_s is not None  # noqa: S101 - rows are scans
    blocks, passages = np.array(responses.row_blocks), np.array(stimuli.passages)
    for block in dict.fromkeys(responses.row_blocks):
        times = responses.times_s[blocks == block]
        onsets = stimuli.onsets_s[passages == block] if block in stimuli.passages else stimuli.onsets_s
        tr = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        overlap = ((onsets > times.min() - tr) & (onsets <= times.max() + tr)).any()
        question = _ask_milliseconds(onsets, times, tr)
        if question or not overlap:
            fault = "the times of words and scans do not match" if overlap else "no word falls into any scan"
            raise ValueError(
                f"{file}: {fault} in block {block!r}: "
                f"scans are at {times.min():g} to {times.max():g} s, words at {onsets.min():g} to "
                f"{onsets.max():g} s; {question or 'both must be in seconds on one clock.'}"
            )


def _ask_milliseconds(onsets: Floats, times: Floats, tr: float) -> str:
    """A question for the user if one of the clocks seems to be in milliseconds; else ""."""
    if tr > _MAX_TR_S:
        return "is time_s in milliseconds? Write seconds."
    if np.ptp(onsets) > _MAX_DURATION_RATIO * max(float(np.ptp(times)), tr, 1.0):
        return "are the onsets in milliseconds? Write seconds."
    return ""
